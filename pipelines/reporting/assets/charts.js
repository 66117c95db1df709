// Charts as SVG, drawn to the width they have and again when it changes.

const redraws = new Map();
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const drawn = redraws.get(target);
    if (drawn && Math.abs(drawn.width - target.clientWidth) > 2) drawn.draw();
  }
});

function drawn(height, draw) {
  const holder = el('div', {});
  const state = { width: 0, draw() {
    state.width = holder.clientWidth || 320;
    const node = svg('svg', { height, viewBox: `0 0 ${state.width} ${height}`, role: 'img' });
    draw(node, state.width, height);
    holder.replaceChildren(node);
  } };
  redraws.set(holder, state);
  watcher.observe(holder);
  return holder;
}

function ticks(low, high, most) {
  if (!(high > low)) return [low];
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw - 1e-12);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

// Means of a curve's past, weighing the last points most, begun anew where an iteration begins.
function smoothed(points, fresh) {
  const weight = 2 / (1 + Math.max(6, points.length / 25));
  let mean = 0;
  return points.map(([x, y], n) => { mean = fresh(n) ? y : mean + weight * (y - mean); return [x, mean]; });
}

// series: [{name, points: [[x, y], ...]}]; bounds: [[x, label], ...] where iterations begin; options: low, high, dots, format.
function lineChart(title, note, series, bounds, options = {}) {
  const lines = series.filter((s) => s.points.length);
  if (!lines.length) return null;
  const format = options.format || short, said = el('div', { cls: 'note' }, note);
  const legend = lines.length > 1 && el('div', { cls: 'legend' }, lines.map((s, i) => el('span', {}, el('i', { cls: `b${i}` }), s.name)));
  const xs = lines.flatMap((s) => s.points.map((p) => p[0])), ys = lines.flatMap((s) => s.points.map((p) => p[1]));
  let low = Math.min(...ys, options.low ?? Infinity), high = Math.max(...ys, options.high ?? -Infinity);
  if (high - low < 1e-12) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
  const from = Math.min(...xs), to = Math.max(...xs);
  const chart = drawn(168, (node, width, height) => {
    const left = 38, right = options.dots ? 14 : 6, top = 8, bottom = 20;
    const x = (v) => (to > from ? left + ((v - from) / (to - from)) * (width - left - right) : (left + width - right) / 2);
    const y = (v) => top + (1 - (v - low) / (high - low)) * (height - top - bottom);
    for (const value of ticks(low, high, 4)) {
      node.append(svg('line', { cls: value === 0 && low < 0 ? 'zero' : 'axis', x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      node.append(svg('text', { x: left - 7, y: y(value) + 4, 'text-anchor': 'end' }, format(value)));
    }
    let labelled = -100;
    for (const [at, label] of bounds) {
      if (at < from || at > to) continue;
      if (!options.dots && at > from) node.append(svg('line', { cls: 'bound', x1: x(at), x2: x(at), y1: top, y2: height - bottom }));
      if (x(at) - labelled < 22) continue;
      labelled = x(at);
      node.append(svg('text', { x: x(at) + (options.dots ? 0 : 2), y: height - 5, 'text-anchor': options.dots ? 'middle' : 'start' }, label));
    }
    lines.forEach((s, i) => {
      const begins = options.dots ? [] : bounds.map(([at]) => at);
      const fresh = (n) => !n || begins.some((at) => at > s.points[n - 1][0] && at <= s.points[n][0]);
      const path = (points) => points.map(([px, py], n) => `${fresh(n) ? 'M' : 'L'}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join('');
      const noisy = !options.dots && s.points.length > 60;
      if (noisy) node.append(svg('path', { cls: `line raw s${i}`, d: path(s.points) }));
      node.append(svg('path', { cls: `line s${i}`, d: path(noisy ? smoothed(s.points, fresh) : s.points) }));
      if (options.dots || s.points.length === 1) for (const [px, py] of s.points) node.append(svg('circle', { cls: `f${i}`, cx: x(px), cy: y(py), r: 3.4 }));
    });
    const cursor = svg('line', { cls: 'cursor', y1: top, y2: height - bottom, visibility: 'hidden' });
    node.append(cursor);
    node.addEventListener('pointermove', (event) => {
      const box = node.getBoundingClientRect(), at = event.clientX - box.left;
      const near = (s) => s.points.reduce((a, b) => (Math.abs(x(b[0]) - at) < Math.abs(x(a[0]) - at) ? b : a));
      const place = near(lines[0])[0];
      cursor.setAttribute('x1', x(place)); cursor.setAttribute('x2', x(place)); cursor.setAttribute('visibility', 'visible');
      said.textContent = `${options.unit || 'step'} ${place}: ${lines.map((s) => `${lines.length > 1 ? `${s.name} ` : ''}${format(near(s)[1])}`).join(' · ')}`;
    });
    node.addEventListener('pointerleave', () => { cursor.setAttribute('visibility', 'hidden'); said.textContent = note; });
  });
  return el('div', { cls: 'card' }, el('h3', {}, title), said, legend || null, chart);
}

// rows: [[label, {name: value}, note]]; one bar a row, cut into the named parts. names fix order and colour.
function barChart(title, note, names, rows, options = {}) {
  const used = names.filter(([name]) => rows.some(([, parts]) => parts[name]));
  const totals = rows.map(([, parts]) => sum(used.map(([name]) => parts[name] || 0)));
  if (!used.length) return null;
  const format = options.format || count, high = Math.max(...totals), step = 27;
  const chart = drawn(rows.length * step, (node, width) => {
    const left = options.label || 22, right = 64;
    rows.forEach(([label, parts, said], n) => {
      const y = n * step + 4, scale = (width - left - right) / (options.shares ? totals[n] || 1 : high);
      node.append(svg('text', { x: 0, y: y + 14 }, label));
      let x = left;
      for (const [name, cls] of used) {
        const size = (parts[name] || 0) * scale;
        if (!size) continue;
        const bar = svg('rect', { cls, x, y, width: Math.max(0.5, size - 1), height: 19, rx: 1.5 });
        bar.append(svg('title', {}, `${words(name)}: ${format(parts[name])}`));
        node.append(bar);
        const text = options.shares ? share(parts[name] / totals[n]) : format(parts[name]);
        if (size > text.length * 6.6 + 8) node.append(svg('text', { cls: 'onbar', x: x + 6, y: y + 14 }, text));
        x += size;
      }
      node.append(svg('text', { cls: 'strong', x: x + 7, y: y + 14 }, said ?? format(totals[n])));
    });
  });
  const legend = el('div', { cls: 'legend' }, used.map(([name, cls]) => el('span', {}, el('i', { cls: cls.replace(/^f/, 'b') }), words(name))));
  return el('div', { cls: 'card' }, el('h3', {}, title), el('div', { cls: 'note' }, note), legend, chart);
}

// A histogram for each iteration, over common bins, with the median.
function ridgeChart(title, note, spread, labels, format = short) {
  if (!spread) return null;
  const { edges, counts, values, quantiles } = spread, step = 46;
  const shown = counts.map((some, i) => [some, labels[i], spread.n[i] ? quantiles[i][2] : null, spread.n[i], spread.means[i]]).filter((row) => row[3]);
  const chart = drawn(shown.length * step + 20, (node, width, height) => {
    const left = 22, right = 74, span = width - left - right;
    const bins = counts[0].length, low = edges[0], high = edges[edges.length - 1];
    const gap = values ? Math.min(...edges.slice(1).map((e, i) => e - edges[i]), Infinity) : (high - low) / bins;
    const pad = values ? (Number.isFinite(gap) ? gap / 2 : 0.5) : 0;
    const x = (v) => left + ((v - low + pad) / (high - low + 2 * pad || 1)) * span;
    shown.forEach(([some, label, median, , mean], n) => {
      const base = (n + 1) * step - 6, top = Math.max(...some);
      node.append(svg('text', { x: 0, y: base }, label));
      node.append(svg('line', { cls: 'axis', x1: left, x2: width - right, y1: base + 0.5, y2: base + 0.5 }));
      some.forEach((value, i) => {
        if (!value) return;
        const x1 = values ? x(edges[i] - pad) : x(edges[i]), x2 = values ? x(edges[i] + pad) : x(edges[i + 1]);
        const size = Math.max(1.5, (value / top) * (step - 14)), gapped = x2 - x1 > 3 ? 1 : 0.2;
        const bar = svg('rect', { cls: 'f0', x: x1 + gapped / 2, width: Math.max(0.8, Math.min(x2 - x1 - gapped, 46)), y: base - size, height: size, rx: 1 });
        bar.append(svg('title', {}, `${values ? format(edges[i]) : `${format(edges[i])} – ${format(edges[i + 1])}`}: ${count(value)}`));
        node.append(bar);
      });
      if (!values) node.append(svg('line', { cls: 'median', x1: x(median), x2: x(median), y1: base - step + 12, y2: base + 3 }));
      node.append(svg('text', { cls: 'strong', x: width - right + 9, y: base - 10 }, `⌀ ${format(mean)}`));
      node.append(svg('text', { x: width - right + 9, y: base + 4 }, `½ ${format(median)}`));
    });
    const marks = values && edges.length <= 8 ? edges : ticks(low, high, Math.max(2, Math.min(6, span / 60)));
    for (const value of marks) node.append(svg('text', { x: x(value), y: height - 4, 'text-anchor': 'middle' }, format(value)));
  });
  return el('div', { cls: 'card' }, el('h3', {}, title), el('div', { cls: 'note' }, note), chart);
}
