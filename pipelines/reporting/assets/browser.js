// The sample browser: a list of all prompts of which only the visible rows exist, and one group at a time.

const ROW = 74;
const state = { query: '', iteration: '', only: '', sort: '', deep: false, open: null };
let order = [], deepHits = null, scan = 0, ui = null;

function buildBrowser() {
  const holder = document.getElementById('browser');
  holder.hidden = !index.id.length;
  if (holder.hidden) return;
  const change = (name, get) => (event) => { state[name] = get(event.target); refresh(); };
  const select = (name, options, label) => el('select', { 'aria-label': label, oninput: change(name, (t) => t.value) }, options.map(([value, title]) => el('option', { value }, title)));
  const iterations = [...new Set(index.iteration)], kinds = [...new Set(index.kinds.flat())].sort(), reasons = [...new Set(index.dropped.filter(Boolean))].sort();
  ui = {
    search: el('input', { type: 'search', placeholder: 'Search prompts, or a prompt’s id', 'aria-label': 'Search', oninput: debounce(change('query', (t) => t.value.trim().toLowerCase()), 150) }),
    deep: el('input', { type: 'checkbox', oninput: change('deep', (t) => t.checked) }),
    iteration: select('iteration', [['', 'All iterations'], ...iterations.map((i) => [String(i), `Iteration ${i}`])], 'Iteration'),
    only: select('only', [['', 'All prompts'], ['pair', 'With a pair'], ...kinds.map((k) => [`kind:${k}`, `With ${/^[aeiou]/.test(k) ? 'an' : 'a'} ${words(k)} pair`]), ...(index.judged.some(Boolean) ? [['unreadable', 'With unreadable judgements']] : []), ...(reasons.length ? [['dropped', 'Without a pair']] : []), ...reasons.map((r) => [`dropped:${r}`, `Dropped: ${words(r)}`])], 'Which prompts'),
    sort: select('sort', [['', 'In order'], ['best', 'Best score first'], ['worst', 'Worst score first'], ['spread', 'Largest spread first'], ['unreadable', 'Most unreadable first']], 'Order'),
    said: el('span', { cls: 'quiet small', role: 'status' }),
    space: el('div', { cls: 'space' }),
    detail: el('div', { cls: 'detail' }, el('p', { cls: 'quiet small' }, 'Choose a prompt; with the list in focus, ↑ and ↓ step through it.')),
  };
  ui.list = el('div', { cls: 'list', tabindex: '0', onscroll: drawRows, onkeydown: step }, ui.space);
  ui.panes = el('div', { cls: 'panes' }, ui.list, ui.detail);
  holder.replaceChildren(
    el('div', { cls: 'part' }, el('h2', {}, 'Samples'), el('p', { cls: 'quiet' }, 'Every prompt with what was written, how it was judged, and why its pair was chosen.')),
    el('div', { cls: 'tools' }, ui.search, el('label', {}, ui.deep, 'responses and judgements too'), ui.iteration, ui.only, ui.sort), el('div', { cls: 'tools' }, ui.said), ui.panes,
  );
  new ResizeObserver(drawRows).observe(ui.list);
}

function debounce(action, wait) {
  let timer = 0;
  return (event) => { clearTimeout(timer); timer = setTimeout(action, wait, event); };
}

const FILTERS = {
  pair: (i) => index.kinds[i].length, unreadable: (i) => index.unreadable[i], dropped: (i) => index.dropped[i],
  kind: (i, value) => index.kinds[i].includes(value), reason: (i, value) => index.dropped[i] === value,
};
const SORTS = {
  best: (i) => index.best[i] ?? -Infinity, worst: (i) => -(index.worst[i] ?? Infinity), unreadable: (i) => index.unreadable[i],
  spread: (i) => (index.best[i] === null ? -Infinity : index.best[i] - index.worst[i]),
};

function chosen() {
  const [name, value] = state.only.includes(':') ? [state.only.startsWith('kind') ? 'kind' : 'reason', state.only.slice(state.only.indexOf(':') + 1)] : [state.only];
  const keep = FILTERS[name], found = [];
  for (let i = 0; i < index.id.length; i += 1) {
    if ((!state.iteration || String(index.iteration[i]) === state.iteration) && (!keep || keep(i, value))) found.push(i);
  }
  return found;
}

const inHead = (i) => haystack[i].includes(state.query) || index.id[i].startsWith(state.query);

function refresh(keepPlace = false) {
  if (!ui) return;
  const some = chosen();
  scan += 1;
  deepHits = null;
  show(state.query ? some.filter(inHead) : some, keepPlace);
  ui.said.textContent = `${count(order.length)} of ${count(index.id.length)} prompts`;
  if (state.query && state.deep) scanTexts(some, scan);
  remember();
}

function show(rows, keepPlace) {
  order = SORTS[state.sort] ? [...rows].sort((a, b) => SORTS[state.sort](b) - SORTS[state.sort](a) || a - b) : rows;
  ui.space.style.height = `${order.length * ROW}px`;
  if (!keepPlace) ui.list.scrollTop = 0;
  drawRows();
}

// Look into every text, chunk by chunk, without holding up the page; a new search ends an old one.
async function scanTexts(rows, mine) {
  deepHits = new Set(rows.filter(inHead));
  const byChunk = new Map();
  let absent = 0;
  for (const i of rows) {
    if (index.chunk[i] === null) { absent += 1; continue; }
    const key = `${index.iteration[i]}/${index.chunk[i]}`;
    byChunk.set(key, [...(byChunk.get(key) || []), i]);
  }
  let done = 0;
  for (const some of byChunk.values()) {
    const groups = await source.chunk(index.chunk[some[0]], index.iteration[some[0]]).catch(() => []);
    if (mine !== scan) return;
    const places = new Map(groups.map((g) => [`${g.iteration}/${g.prompt_id}`, g]));
    for (const i of some) {
      const group = places.get(`${index.iteration[i]}/${index.id[i]}`);
      if (group && textsOf(group).some((text) => text.toLowerCase().includes(state.query))) deepHits.add(i);
    }
    done += some.length;
    ui.said.textContent = `${count(deepHits.size)} of ${count(index.id.length)} prompts · ${count(done)} searched${absent ? `, the texts of ${count(absent)} are not in this file` : ''}`;
    if (done === some.length || done % 5 === 0 || done + absent >= rows.length) show(rows.filter((i) => deepHits.has(i)), true);
  }
  show(rows.filter((i) => deepHits.has(i)), true);
}

const textsOf = (g) => [...g.messages.map((m) => m.content), g.gold || '', ...[...g.samples, ...g.judgements, ...g.meta_judgements].map((r) => r.text), ...g.pairs.flatMap((p) => [p.chosen_text || '', p.rejected_text || '', p.pair_id])];

function drawRows() {
  const first = Math.max(0, Math.floor(ui.list.scrollTop / ROW) - 4), last = Math.min(order.length, Math.ceil((ui.list.scrollTop + (ui.list.clientHeight || 600)) / ROW) + 4);
  const rows = [];
  for (let n = first; n < last; n += 1) {
    const i = order[n], range = index.best[i] === null ? null : index.best[i] === index.worst[i] ? short(index.best[i]) : `${short(index.worst[i])} – ${short(index.best[i])}`;
    const row = el('button', { cls: `row${state.open === key(i) ? ' here' : ''}`, tabindex: '-1', onclick: () => go(i) },
      marked(el('span', { cls: 'what' }), index.prompt[i] || '(no text)', state.query),
      el('span', { cls: 'meta' }, el('span', {}, `it ${index.iteration[i]}`), el('span', {}, `${index.samples[i]} samples`), range && el('span', {}, range),
        index.kinds[i].length ? el('strong', {}, index.kinds[i].map(words).join(', ')) : null, index.dropped[i] ? el('em', {}, words(index.dropped[i])) : null));
    row.style.top = `${n * ROW}px`;
    rows.push(row);
  }
  ui.space.replaceChildren(...rows);
}

const key = (i) => `${index.iteration[i]}/${index.id[i]}`;

function go(i) {
  state.open = key(i);
  remember();
  drawRows();
  openGroup(i);
}

function step(event) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by || !order.length) return;
  event.preventDefault();
  const next = Math.min(order.length - 1, Math.max(0, order.findIndex((i) => key(i) === state.open) + by));
  const top = next * ROW;
  if (top < ui.list.scrollTop || top + ROW > ui.list.scrollTop + ui.list.clientHeight) ui.list.scrollTop = top - ROW;
  go(order[next]);
}

async function openGroup(i) {
  ui.panes.classList.add('open');
  const mine = state.open;
  let content;
  try {
    const group = await groupOf(i);
    content = group ? groupView(group) : [el('p', { cls: 'prompt' }, index.prompt[i]), el('p', { cls: 'quiet' }, 'The texts of this group are not in this file. ', el('code', {}, `appellate explain RUN ${index.id[i]}`), ' shows them.')];
  } catch (error) {
    content = [el('p', { cls: 'quiet' }, `This group cannot be read: ${error.message}`)];
  }
  if (mine !== state.open) return;
  ui.detail.replaceChildren(el('button', { cls: 'back', onclick: close }, '← All prompts'), ...content);
}

function close() {
  state.open = null;
  ui.panes.classList.remove('open');
  remember();
  drawRows();
}

// The address holds what is shown, so that it can be sent to somebody.
function remember() {
  const parts = new URLSearchParams();
  for (const name of ['query', 'iteration', 'only', 'sort', 'open']) if (state[name]) parts.set(name, state[name]);
  if (state.deep) parts.set('deep', '1');
  const text = parts.toString();
  if (text || location.hash.includes('=')) history.replaceState(null, '', text ? `#${text}` : location.pathname + location.search);
}

function recall() {
  if (!ui || !location.hash.includes('=')) return;
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const name of ['query', 'iteration', 'only', 'sort', 'open']) state[name] = parts.get(name) || '';
  state.query = state.query.toLowerCase();
  state.deep = parts.get('deep') === '1';
  ui.search.value = state.query; ui.iteration.value = state.iteration; ui.only.value = state.only; ui.sort.value = state.sort; ui.deep.checked = state.deep;
  refresh();
  const at = state.open ? index.id.findIndex((_, i) => key(i) === state.open) : -1;
  document.getElementById('browser').scrollIntoView({ behavior: 'instant' });
  if (at < 0) return;
  const place = order.indexOf(at);
  if (place > 3) ui.list.scrollTop = (place - 1) * ROW;
  drawRows();
  openGroup(at);
}
