// The story of the run: every section from the summary.

const COLOURS = ['f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'f6'];
const STATUSES = [['ok', 'ok'], ['missing', 'f4'], ['ambiguous', 'f1'], ['out_of_range', 'f2'], ['truncated', 'f6']];
const STAGES = [['prompts', 'f5'], ['groups', 'f0'], ['pairs', 'f3'], ['train', 'f1'], ['sync', 'f2']];
const SECTIONS = [['problems', 'Problems'], ['learning', 'Learning'], ['judge', 'Judge'], ['spread', 'Scores and lengths'], ['pairs', 'Pairs'], ['cost', 'Time and cost'], ['browser', 'Samples'], ['made-with', 'Made with']];

const named = (rows, part) => {
  const names = [...new Set(rows.flatMap((row) => Object.keys(part(row))))];
  const weight = (name) => sum(rows.map((row) => part(row)[name] || 0));
  return names.sort((a, b) => weight(b) - weight(a)).map((name, i) => [name, COLOURS[Math.min(i, 6)]]);
};

function section(id, title, lede, ...content) {
  const shown = content.flat(Infinity).filter(Boolean);
  return shown.length ? el('section', { cls: 'part', id }, el('h2', {}, title), lede ? el('p', { cls: 'quiet' }, lede) : null, shown) : null;
}

const grid = (...cards) => (cards.flat().filter(Boolean).length ? el('div', { cls: 'grid' }, cards) : null);

function header(summary) {
  const { run, iterations, costs } = summary, last = iterations[iterations.length - 1];
  const done = iterations.filter((n) => n.sync || n.summary).length;
  const figures = [
    [`${done} of ${run.planned_iterations}`, 'iterations'], [count(sum(iterations.map((n) => n.groups))), 'prompts answered'],
    [count(sum(iterations.map((n) => n.samples))), 'samples'], [count(sum(iterations.map((n) => n.judge.total + n.meta_judge.total))), 'judgements'],
    [count(sum(iterations.map((n) => sum(Object.values(n.pairs))))), 'pairs'], [short(sum(iterations.map((n) => n.tokens))), 'tokens written'],
    [duration(sum(costs.map((c) => c.seconds))), 'in stages'], [run.version, 'weights now'],
  ];
  const shown = figures.filter(([value]) => value !== '0');
  const lede = run.rule ? run.rule.split('\n\n')[0].replaceAll('\n', ' ') : 'A training on given pairs.';
  const state = el('span', { cls: `state ${run.state}` }, run.state === 'running' && last ? `running, iteration ${last.iteration}` : run.state);
  return [
    el('h1', {}, run.recipe ? words(run.recipe) : 'Training'),
    el('p', { cls: 'lede' }, lede),
    el('p', {}, state, ' ', el('span', { cls: 'quiet small' }, `${run.model} · ${clock(run.started)} to ${clock(run.last_event)}`)),
    el('div', { cls: 'where' }, run.path),
    el('div', { cls: 'figures' }, shown.map(([value, name]) => el('div', { cls: 'figure' }, el('b', {}, value), el('span', {}, name)))),
  ];
}

function problems({ problems: found }) {
  if (!found.length) return section('problems', 'Problems', null, el('p', { cls: 'quiet' }, 'None found. Rates of unreadable judgements, flips, dropped prompts, cut-off samples and the influence of length are within bounds, and every step was finite.'));
  const rows = found.map((p) => el('li', { cls: p.serious ? 'serious' : '' },
    el('b', {}, p.title, el('small', {}, `${p.iteration === null ? 'whole run' : `iteration ${p.iteration}`}${p.serious ? ', serious' : ''}`)), el('span', {}, p.detail)));
  return section('problems', 'Problems', null, el('ul', { cls: 'problems' }, rows));
}

function learning({ iterations }) {
  let begin = 0;
  const bounds = [], joined = {};
  for (const n of iterations) {
    bounds.push([begin, String(n.iteration)]);
    for (const [name, points] of Object.entries(n.training.curves)) (joined[name] ||= []).push(...points.map(([x, y]) => [x + begin, y]));
    begin += n.training.steps;
  }
  const curve = (name, title) => ({ name: title, points: joined[name] || [] });
  const validation = iterations.flatMap((n, i) => n.training.validation.map(([x, y]) => [bounds[i][0] + x - 1, y]));
  const by = (value) => iterations.filter((n) => known(value(n))).map((n) => [n.iteration, value(n)]);
  const places = iterations.map((n) => [n.iteration, String(n.iteration)]), dots = { dots: true, unit: 'iteration' };
  const scores = by((n) => n.mean_score), sizes = by((n) => n.mean_words);
  const compared = Boolean(joined.dpo_loss);
  return section('learning', 'Learning', 'By iteration what the policy wrote, before it learned from it; by optimizer step what training did. Dotted lines are where iterations begin; long curves are shown with their running mean.', grid(
    lineChart('Mean score of samples', 'by iteration', [{ name: 'score', points: scores }], places, dots),
    lineChart('Mean length of samples', 'words, by iteration', [{ name: 'words', points: sizes }], places, dots),
    lineChart('Loss', joined.loss && compared ? 'whole loss and its DPO part' : 'by step', [curve('loss', 'loss'), ...(compared && !same(joined.loss, joined.dpo_loss) ? [curve('dpo_loss', 'DPO')] : []), { name: 'validation', points: validation }], bounds),
    lineChart('Accuracy', 'share of pairs whose chosen side has the higher reward', [curve('accuracy', 'accuracy')], bounds, { low: 0, high: 1, format: share }),
    lineChart('Rewards', 'log-probability against the reference, times β', [curve('reward_chosen', 'chosen'), curve('reward_rejected', 'rejected')], bounds),
    lineChart('Gradient norm', 'before clipping', [curve('grad_norm', 'norm')], bounds, { low: 0 }),
  ));
}

const same = (a, b) => a && b && a.length === b.length && a.every(([, y], i) => Math.abs(y - b[i][1]) < 1e-9);

function judge({ iterations }) {
  const rows = [['judge', 'judge'], ['meta_judge', 'meta-judge']].flatMap(([key, who]) => iterations.filter((n) => n[key].total).map((n) => ({ who, n, h: n[key], judge: key === 'judge' })));
  const bars = (key, title) => barChart(title, 'what could be read; the rest abstains and has no say', STATUSES, iterations.filter((n) => n[key].total).map((n) => [String(n.iteration), n[key].statuses, count(n[key].total)]), { shares: true });
  const lives = iterations.flatMap((n) => [['before', n.summary?.judge_before], ['after', n.sync?.judge_after]].filter(([, reply]) => reply).map(([when, reply]) => ({ n, when, reply })));
  const health = rows.length && el('div', { cls: 'card' }, el('h3', {}, 'Health'), el('div', { cls: 'note' }, 'rates of what could be read, with how many they are of'), table([
    ['', (r) => r.who, 'text'], ['iteration', (r) => r.n.iteration], ['readable', (r) => share(r.h.statuses.ok / r.h.total)], ['of', (r) => count(r.h.total)],
    ['ties', (r) => (r.h.tied + r.h.decided ? share(r.h.tied / (r.h.tied + r.h.decided)) : '–')],
    ['first position wins', (r) => share(r.h.first_position_rate)], ['of decided', (r) => (r.h.decided ? count(r.h.decided) : '–')],
    ['orders agree', (r) => (r.judge && r.n.both ? share(1 - r.n.flips / r.n.both) : '–')], ['of', (r) => (r.judge && r.n.both ? count(r.n.both) : '–')],
    ['score ~ length', (r) => (r.judge && known(r.n.length_correlation.r) ? `r = ${r.n.length_correlation.r.toFixed(2)}` : '–')],
  ], rows));
  const live = lives.length && el('div', { cls: 'card' }, el('h3', {}, 'The live judge around each update'), el('div', { cls: 'note' }, 'one judgement over HTTP of the iteration’s first prompt'), table([
    ['iteration', (r) => r.n.iteration], ['', (r) => r.when, 'text'], ['weights', (r) => r.reply.weight_version ?? '–', 'text'],
    ['scores', (r) => (r.reply.scores || []).map(short).join(', ') || '–'], ['readable', (r) => (r.reply.votes ? `${r.reply.readable} of ${r.reply.votes}` : '–')],
    ['ends', (r) => (r.reply.error || r.reply.text || '').trim().slice(-90), 'text'],
  ], lives));
  return section('judge', 'Judge', null, grid(bars('judge', 'Judgements'), bars('meta_judge', 'Meta-judgements')), health || null, live || null);
}

function spread({ iterations, distributions }) {
  const labels = iterations.map((n) => String(n.iteration));
  return section('spread', 'Scores and lengths', 'One row an iteration; ⌀ mean, ½ median.', grid(
    ridgeChart('Scores of samples', 'as pairs are chosen by them', distributions.scores, labels),
    ridgeChart('Words of samples', 'all that were made or given', distributions.words, labels),
    ridgeChart('Elo of judgements', 'from the meta-judge’s comparisons', distributions.elo, labels),
  ));
}

function pairs({ iterations }) {
  const rows = iterations.filter((n) => n.groups || sum(Object.values(n.pairs)));
  const shapes = iterations.flatMap((n) => Object.entries(n.shapes).map(([kind, shape]) => ({ n, kind, shape })));
  const binned = (kind) => {
    const some = iterations.filter((n) => n.shapes[kind] && Object.keys(n.shapes[kind].margin_histogram).length);
    const bins = some.flatMap((n) => Object.keys(n.shapes[kind].margin_histogram).map(Number)), low = Math.min(...bins), high = Math.max(...bins);
    if (!(high > low) || high - low > 100) return null;
    const edges = Array.from({ length: Math.round((high - low) / 0.5) + 1 }, (_, i) => low + i / 2);
    const counts = some.map((n) => edges.map((e) => n.shapes[kind].margin_histogram[String(e)] || 0));
    const medians = counts.map((c) => { let left = sum(c) / 2; return edges[c.findIndex((v) => (left -= v) <= 0)]; });
    return ridgeChart(`Margins of ${words(kind)} pairs`, 'chosen score minus rejected, in bins of a half', { values: true, edges, counts, n: counts.map(sum), quantiles: medians.map((m) => [0, 0, m]), means: some.map((n) => n.shapes[kind].margin_mean) }, some.map((n) => String(n.iteration)));
  };
  const kinds = [...new Set(shapes.map((s) => s.kind))];
  return section('pairs', 'Pairs', null, grid(
    barChart('Pairs by kind', 'by iteration', named(iterations, (n) => n.pairs), rows.map((n) => [String(n.iteration), n.pairs])),
    barChart('Prompts without a pair', 'by reason', named(iterations, (n) => n.dropped), rows.map((n) => [String(n.iteration), n.dropped, `${count(sum(Object.values(n.dropped)))} of ${count(n.groups)}`])),
    kinds.map(binned),
  ), shapes.length ? el('div', { cls: 'card' }, el('h3', {}, 'Both sides'), el('div', { cls: 'note' }, 'means'), table([
    ['iteration', (r) => r.n.iteration], ['kind', (r) => words(r.kind), 'text'], ['pairs', (r) => count(r.n.pairs[r.kind])], ['chosen characters', (r) => count(r.shape.chosen_chars_mean)],
    ['rejected characters', (r) => count(r.shape.rejected_chars_mean)], ['margin', (r) => short(r.shape.margin_mean)],
  ], shapes)) : null);
}

function cost({ iterations, stages, costs, updates }) {
  const rows = iterations.map((n) => {
    const parts = {};
    for (const s of stages) if (s.iteration === n.iteration && s.seconds) parts[s.stage] = (parts[s.stage] || 0) + s.seconds;
    return [String(n.iteration), parts];
  }).filter(([, parts]) => Object.keys(parts).length);
  const broken = stages.filter((s) => s.state === 'killed' || s.state === 'failed');
  const memory = Object.fromEntries([['train', Math.max(0, ...iterations.map((n) => n.training.peak_memory_gib || 0))]]);
  return section('cost', 'Time and cost', broken.length ? `${broken.length} attempts did not reach their end; their time counts up to what is known.` : null, grid(
    barChart('Seconds by stage', 'by iteration', STAGES, rows, { format: duration }),
    barChart('Weight updates', 'preparing while the old weights are served, loading while requests wait', [['prepare', 'f3'], ['load', 'f1']], updates.map((u) => [`${u.version} ${u.model}`, { prepare: u.prepare_s, load: u.load_s }]), { format: duration, label: 96 }),
  ), costs.length ? el('div', { cls: 'card' }, el('h3', {}, 'Stages'), el('div', { cls: 'note' }, 'tokens of groups are those written, of training those read'), table([
    ['stage', (r) => r.stage, 'text'], ['runs', (r) => r.attempts], ['time', (r) => duration(r.seconds)], ['share', (r) => share(r.share)], ['tokens', (r) => short(r.tokens)],
    ['tokens/s', (r) => count(r.tokens_per_s)], ['peak memory', (r) => (memory[r.stage] ? `${memory[r.stage].toFixed(1)} GiB` : '–')],
  ], costs)) : null);
}

function madeWith({ run, templates }) {
  const facts = Object.entries(run.manifest).map(([key, value]) => [words(key), typeof value === 'object' && value ? Object.entries(value).map(([k, v]) => `${k} ${v}`).join(', ') : String(value)]);
  const block = (title, ...content) => el('div', { cls: 'card' }, el('details', {}, el('summary', {}, el('b', {}, title)), content));
  return section('made-with', 'Made with', null,
    el('div', { cls: 'card' }, table([['', (r) => r[0], 'text'], ['', (r) => el('span', { cls: 'mono' }, r[1]), 'text']], facts)),
    block('Settings', el('pre', {}, JSON.stringify(run.config, null, 2))),
    Object.keys(templates).length ? block('Prompt templates', table([['template', (r) => r[1], 'text'], ['hash', (r) => r[0], 'code']], Object.entries(templates))) : null);
}

function story(summary) {
  document.title = `${summary.run.name} · Appellate`;
  document.getElementById('head').replaceChildren(...header(summary));
  const parts = [problems, learning, judge, spread, pairs, cost].map((make) => make(summary)).filter(Boolean);
  document.getElementById('main').replaceChildren(...parts);
  for (const holder of redraws.keys()) if (!holder.isConnected) { watcher.unobserve(holder); redraws.delete(holder); }
  for (const [, drawing] of redraws) drawing.draw();
  const foot = document.getElementById('foot'), last = madeWith(summary);
  foot.replaceChildren(...(last ? [last] : []), el('p', { cls: 'small' }, `Appellate · ${page.made ? `made ${clock(page.made)}` : 'live'}${page.left_out ? ` · ${count(page.left_out)} groups are in the list alone, their texts would not fit; appellate explain shows them` : ''}`));
  const there = SECTIONS.filter(([id]) => document.getElementById(id) && (id !== 'browser' || index.id.length));
  document.getElementById('nav').replaceChildren(el('div', {}, there.map(([id, title]) => el('a', { href: `#${id}` }, title))));
}
