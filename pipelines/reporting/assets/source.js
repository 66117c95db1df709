// Where the data is: in the page itself, compressed, or at the run's live endpoint beside it.

async function unpacked(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
}

const embedded = {
  live: false,
  read: (name) => unpacked(document.getElementById(name).textContent),
  // Chunks follow the script, so that the page shows before all of them are there.
  async chunk(key) {
    while (!document.getElementById(`chunk-${key}`) && document.readyState === 'loading') await new Promise((done) => { setTimeout(done, 20); });
    return this.read(`chunk-${key}`);
  },
};

const served = {
  live: true,
  tags: {},
  // null where nothing is new
  async read(name) {
    const headers = this.tags[name] ? { 'If-None-Match': this.tags[name] } : {};
    const reply = await fetch(`run/data/${name}`, { headers, cache: 'no-store' });
    if (reply.status === 304) return null;
    if (!reply.ok) throw new Error(`${reply.status} for ${name}`);
    this.tags[name] = reply.headers.get('ETag');
    return reply.json();
  },
  async chunk(key, iteration) {
    const reply = await fetch(`run/data/groups/${iteration}/${encodeURIComponent(key)}`, { cache: 'no-store' });
    if (!reply.ok) throw new Error(`${reply.status} for ${key}`);
    return reply.json();
  },
};

const kept = new Map();  // the chunks used last
const KEEP = 24;

async function chunkOf(row) {
  const key = `${source.live ? index.iteration[row] : ''}/${index.chunk[row]}`;
  if (!kept.has(key)) kept.set(key, source.chunk(index.chunk[row], index.iteration[row]).catch((error) => { kept.delete(key); throw error; }));
  const found = kept.get(key);
  kept.delete(key);
  kept.set(key, found);
  while (kept.size > KEEP) kept.delete(kept.keys().next().value);
  return found;
}

async function groupOf(row) {
  if (index.chunk[row] === null) return null;
  const groups = await chunkOf(row);
  return groups.find((g) => g.prompt_id === index.id[row] && g.iteration === index.iteration[row]) || null;
}
