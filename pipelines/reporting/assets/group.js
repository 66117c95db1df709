// One group: the prompt, its pairs side by side and why, every sample with what was said of it, and where all came from.

const code = (id) => el('span', { cls: 'mono', title: id }, String(id).slice(0, 10));
const texts = (text, cls = 'text') => marked(el('div', { cls }), text, state.deep || state.query ? state.query : '');

function groupView(g) {
  const sides = {};
  for (const p of g.pairs) { sides[p.chosen_from] ||= 'chosen'; if (p.rejected_from) sides[p.rejected_from] ||= 'rejected'; }
  const by = { sample: new Map(g.samples.map((s) => [s.sample_id, s])), judgement: new Map(g.judgements.map((j) => [j.judgement_id, j])) };
  const ranked = [...g.samples].sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.index - b.index);
  const comparisons = g.judgements.filter((j) => j.sample_ids.length > 1);
  return [
    el('div', { cls: 'quiet small' }, `Iteration ${g.iteration} · prompt `, code(g.prompt_id), g.dropped ? el('span', {}, ' · no pair: ', el('b', {}, words(g.dropped))) : null),
    ...g.messages.flatMap((m) => [g.messages.length > 1 ? el('div', { cls: 'turn' }, m.role) : null, texts(m.content, 'prompt')]).filter(Boolean),
    g.gold ? el('p', { cls: 'small' }, el('span', { cls: 'quiet' }, 'gold '), marked(el('span', { cls: 'text' }), g.gold, state.query)) : null,
    ...g.pairs.map((p) => pairView(p, g, by)),
    g.samples.length ? el('h3', {}, `${g.samples.length} samples`) : null,
    el('div', { cls: 'samples' }, ranked.map((s) => sampleView(s, g, sides[s.sample_id]))),
    comparisons.length ? saidView('Comparisons', comparisons, (j) => `${name(by, j.sample_ids[j.order ? 1 : 0])} | ${name(by, j.sample_ids[j.order ? 0 : 1])}`, (j) => (j.status === 'ok' ? (j.verdict === 'tie' ? 'tie' : `→ ${name(by, j.sample_ids[j.verdict === 'B' ? 1 : 0])}`) : words(j.status))) : null,
    g.meta_judgements.length ? saidView('Meta-judgements', g.meta_judgements, (m) => { const two = [m.judgement_a, m.judgement_b].map((id) => judgementName(by, id)); if (m.order) two.reverse(); return two.join(' | '); }, (m) => (m.status === 'ok' ? (m.winner === 'tie' ? 'tie' : `→ ${judgementName(by, m.winner === 'B' ? m.judgement_b : m.judgement_a)}`) : words(m.status))) : null,
    lineage(g),
  ].filter(Boolean);
}

const name = (by, id) => { const s = by.sample.get(id); return s ? `sample ${s.index}` : id.slice(0, 8); };
const judgementName = (by, id) => { const j = by.judgement.get(id); return j ? `${j.sample_ids.map((s) => `${by.sample.get(s)?.index ?? '?'}`).join(':')}/${j.index} (${says(j)})` : id.slice(0, 8); };
const says = (j) => (j.status !== 'ok' ? words(j.status) : known(j.value) ? short(j.value) : j.verdict ?? 'ok');

function pairView(p, g, by) {
  const side = (which) => {
    const from = p[`${which}_from`], record = by.sample.get(from) || by.judgement.get(from), judgement = by.judgement.get(from);
    const text = p[`${which}_text`] ?? record?.text;
    if (!from && !text) return null;
    const facts = [known(p[`${which}_score`]) && `score ${short(p[`${which}_score`])}`, `${count(p[`${which}_tokens`])} tokens`, known(p[`ref_logp_${which}`]) && `reference log-prob ${short(p[`ref_logp_${which}`])}`].filter(Boolean).join(' · ');
    const title = judgement ? `judgement ${judgementName(by, from)}` : record ? `sample ${record.index}` : 'given';
    return el('div', { cls: `side ${which}` }, el('h4', {}, el('b', {}, which), ` ${title}`), el('div', { cls: 'quiet small' }, facts), texts(text || ''));
  };
  const margin = known(p.chosen_score) && known(p.rejected_score) ? p.chosen_score - p.rejected_score : null;
  const judged = by.judgement.has(p.chosen_from);
  const met = g.judgements.filter((j) => known(j.elo));
  const rows = judged ? (met.length ? met : g.judgements).map((j) => ({ id: j.judgement_id, name: judgementName(by, j.judgement_id), score: j.elo ?? j.value, size: j.text.length }))
    : g.samples.map((s) => ({ id: s.sample_id, name: `sample ${s.index}${s.kind === 'sample' ? '' : `, ${words(s.kind)}`}`, score: s.score, size: s.text.length, votes: s.votes, answer: s.answer }));
  rows.sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  const role = (id) => (id === p.chosen_from ? 'chosen' : id === p.rejected_from ? 'rejected' : '');
  const why = [
    margin !== null ? `Chosen ${short(p.chosen_score)} against ${short(p.rejected_score)}: a margin of ${short(margin)}${judged && met.length ? ' in Elo' : ''}, out of ${rows.length} ${judged ? (met.length ? 'judgements that met' : 'judgements') : 'samples'}.` : 'One text to imitate; it has no rejected side.',
    p.weight !== 1 ? ` Weight ${short(p.weight)}.` : '',
    p.steps.length ? ` Trained on in step${p.steps.length > 1 ? 's' : ''} ${p.steps.join(', ')} of iteration ${p.iteration}, which made v${p.iteration + 1}.` : '',
  ].join('');
  return el('div', { cls: 'card' }, el('h3', {}, `${words(p.kind)[0].toUpperCase()}${words(p.kind).slice(1)} pair `, code(p.pair_id)), el('p', { cls: 'small quiet' }, why),
    el('div', { cls: 'two' }, side('chosen'), side('rejected')),
    el('details', {}, el('summary', { cls: 'small' }, 'What it was chosen from, and the rule'),
      el('p', { cls: 'small quiet' }, summary.run.rule.replaceAll('\n\n', ' ').replaceAll('\n', ' ')),
      table([['', (r) => r.name, 'text'], ['score', (r) => short(r.score)], ...(rows.some((r) => known(r.votes)) ? [['votes', (r) => count(r.votes)]] : []), ...(rows.some((r) => r.answer) ? [['answer', (r) => (r.answer || '').slice(0, 60), 'text']] : []), ['characters', (r) => count(r.size)], ['', (r) => role(r.id), 'text']], rows)));
}

function sampleView(s, g, side) {
  const about = g.judgements.filter((j) => j.sample_ids.length === 1 && j.sample_ids[0] === s.sample_id);
  const body = el('div', { cls: 'text' }), hidden = s.thought && s.text.startsWith(s.thought) ? s.thought : '';
  if (hidden) marked(body.appendChild(el('span', { cls: 'thought' })), hidden, state.query);
  marked(body, s.text.slice(hidden.length) || '(empty)', state.query);
  const facts = [`sample ${s.index}`, s.kind !== 'sample' && words(s.kind), `${count(s.n_words)} words`, s.finish_reason === 'length' && 'cut off', s.answer && `answer ${s.answer.slice(0, 40)}`, known(s.votes) && `${s.votes} votes`, side].filter(Boolean);
  const node = el('div', { cls: `sample ${side || ''}` }, el('div', { cls: 'head' }, el('b', {}, known(s.score) ? short(s.score) : '–'), el('span', { cls: 'quiet small' }, facts.join(' · '))), body);
  if (about.length) node.append(...chips(about, says));
  return node;
}

// A chip for each reply; pressing one shows what it says.
function chips(records, label) {
  const shown = el('div', {}), row = el('div', { cls: 'chips' });
  for (const record of records) {
    const chip = el('button', { cls: `chip ${record.status === 'ok' ? '' : 'unread'}`, 'aria-expanded': 'false' }, label(record));
    chip.addEventListener('click', () => {
      const open = chip.getAttribute('aria-expanded') === 'true';
      for (const other of row.children) other.setAttribute('aria-expanded', 'false');
      chip.setAttribute('aria-expanded', String(!open));
      shown.replaceChildren(...(open ? [] : [saidOf(record)]));
    });
    row.append(chip);
    if (state.deep && state.query && record.text.toLowerCase().includes(state.query)) { chip.setAttribute('aria-expanded', 'true'); shown.replaceChildren(saidOf(record)); }
  }
  return [row, shown];
}

function saidOf(record) {
  const id = record.judgement_id || record.meta_id;
  const facts = [words(record.status), known(record.value) && `value ${short(record.value)}`, known(record.elo) && `Elo ${short(record.elo)}`, `weights ${record.weight_version}`, `prompt ${summary.templates[record.prompt_hash] || record.prompt_hash}`].filter(Boolean);
  return el('div', { cls: 'said' }, el('div', { cls: 'quiet small' }, code(id), ` · ${facts.join(' · ')}`), texts(record.text));
}

function saidView(title, records, who, verdict) {
  const rows = records.map((r) => el('details', {}, el('summary', { cls: 'small' }, el('span', { cls: 'quiet' }, who(r)), ' ', el('b', {}, verdict(r))), saidOf(r)));
  return el('div', { cls: 'card' }, el('details', { open: records.length <= 6 }, el('summary', {}, el('b', {}, `${title} (${records.length})`), el('span', { cls: 'quiet small' }, ` as shown: first | second${title === 'Comparisons' ? '' : ', each as sample/judgement (score)'}`)), rows));
}

function lineage(g) {
  const rows = [
    ...g.samples.map((r) => ({ what: `sample ${r.index}`, id: r.sample_id, r })), ...g.judgements.map((r) => ({ what: 'judgement', id: r.judgement_id, r })),
    ...g.meta_judgements.map((r) => ({ what: 'meta-judgement', id: r.meta_id, r })),
  ];
  const template = (hash) => (hash ? `${summary.templates[hash] || 'template'} ${hash.slice(0, 16)}` : '');
  const body = () => [
    table([['record', (x) => x.what, 'text'], ['id', (x) => x.id, 'text code'], ['weights', (x) => x.r.weight_version, 'text'], ['seed', (x) => String(x.r.seed)], ['tokens', (x) => count(x.r.n_tokens)], ['ended', (x) => x.r.finish_reason || words(x.r.status), 'text'], ['prompt', (x) => template(x.r.prompt_hash), 'text code']], rows),
    g.pairs.length ? table([['pair', (p) => p.pair_id, 'text code'], ['chosen from', (p) => p.chosen_from, 'text code'], ['rejected from', (p) => p.rejected_from || '–', 'text code'], ['reference', (p) => p.ref_version || '–', 'text'], ['chat template', (p) => (p.template_hash || '–').slice(0, 16), 'text code'], ['steps', (p) => p.steps.join(', ') || '–']], g.pairs) : null,
    g.meta !== '{}' ? el('pre', {}, g.meta) : null,
  ];
  const versions = [...new Set(rows.map((x) => x.r.weight_version))].join(', ');
  const box = el('details', {}, el('summary', {}, el('b', {}, 'Lineage'), el('span', { cls: 'quiet small' }, ` ${rows.length} records by weights ${versions || '–'}`)));
  box.addEventListener('toggle', () => { if (box.open && box.children.length === 1) append(box, body()); });
  return el('div', { cls: 'card' }, box);
}
