// Building the page. Text of prompts and models reaches it through text nodes alone.
'use strict';

const SVG = 'http://www.w3.org/2000/svg';

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key === 'cls' ? 'class' : key, value);
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child instanceof Node ? child : String(child));
  }
}

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key === 'cls' ? 'class' : key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const count = (value) => (known(value) ? whole.format(value) : '–');
const share = (value) => (known(value) ? `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %` : '–');

function short(value) {
  if (!known(value)) return '–';
  const size = Math.abs(value);
  if (size < 1e-9) return '0';
  if (size >= 1e6) return `${trimmed(value / 1e6, 1)} M`;
  if (size >= 1e4) return `${trimmed(value / 1e3, size < 1e5 ? 1 : 0)} k`;
  if (size >= 100) return whole.format(value);
  if (size < 0.001) return value.toExponential(1);
  return trimmed(value, size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

const trimmed = (value, digits) => value.toFixed(digits).replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '').replace(/^-0$/, '0');

function duration(seconds) {
  if (!known(seconds)) return '–';
  if (seconds < 60) return `${trimmed(seconds, seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, '0')} min` : `${trimmed(hours / 24, 1)} days`;
}

const clock = (time) => (time ? time.slice(0, 16).replace('T', ' ') + ' UTC' : '–');
const words = (name) => String(name).replaceAll('_', ' ');
const sum = (values) => values.reduce((total, value) => total + value, 0);

// A table of texts and numbers: columns are [title, row => value, class].
function table(columns, rows) {
  const head = el('tr', {}, columns.map(([title, , cls]) => el('th', { cls }, title)));
  const body = rows.map((row) => el('tr', {}, columns.map(([, value, cls]) => el('td', { cls }, value(row)))));
  return el('div', { cls: 'scroll' }, el('table', {}, el('thead', {}, head), el('tbody', {}, body)));
}

function card(title, note, ...content) {
  return el('div', { cls: 'card' }, el('h3', {}, title), note === null ? null : el('div', { cls: 'note' }, note), content);
}

// Text with what was searched for marked in it.
function marked(node, text, query) {
  const low = query ? text.toLowerCase() : '';
  let from = 0;
  for (let at = query ? low.indexOf(query) : -1, n = 0; at >= 0 && n < 500; at = low.indexOf(query, from), n += 1) {
    node.append(text.slice(from, at), el('mark', {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  node.append(text.slice(from));
  return node;
}
