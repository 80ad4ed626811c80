// The console's script: asks the cache for its figures every two seconds and draws them. It sets texts
// and attributes only, never HTML, so that no name or reason can become markup.

const base = new URL('.', import.meta.url);
const POLL = 2000;
const TIMEOUT = 8000;
const LONGEST_RETRY = 10_000;
/** How long the page keeps figures for its plots. */
const KEPT = 15 * 60_000;
/** A rate is taken over this time, so that single calls do not make a plot jump. */
const WINDOW = 10_000;
const SPARK_TIME = 300_000;
const TOTAL = '';

const by = (id) => document.getElementById(id);

/** Creates an element. `attributes` may have `text`, and listeners by the name of their event. */
function make(tag, attributes = {}, ...children) {
  const svg = tag === 'svg' || tag === 'path' || tag === 'line' || tag === 'circle' || tag === 'text';
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') element.textContent = value;
    else if (typeof value === 'function') element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Sets a text if it has changed, so that a reader's selection and screen readers are left alone. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---------------------------------------------------------------------------------------- numbers

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });

const count = (number) => (number < 10_000 ? grouped.format(number) : short.format(number));
const rate = (number) => (number >= 100 ? count(number) : number >= 10 ? number.toFixed(1) : number === 0 ? '0' : number.toFixed(2));
const percent = (share) => {
  if (share === null) return '–';
  const value = share * 100;
  // A share is never rounded up to "all" or down to "none".
  if (value > 99.9 && value < 100) return '>99.9 %';
  if (value < 0.1 && value > 0) return '<0.1 %';
  return `${value === 100 || value === 0 ? value : value.toFixed(1)} %`;
};
const bytes = (number) => {
  for (const [unit, size] of [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]]) {
    if (number >= size) return `${Number((number / size).toPrecision(3))} ${unit}`;
  }
  return `${grouped.format(number)} bytes`;
};
/** A duration in seconds, with the unit that fits and a second one for days, hours and minutes. */
function time(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds === 0) return '0 s';
  if (seconds < 1e-6) return '<1 µs';
  if (seconds < 9.995e-4) return `${Number((seconds * 1e6).toPrecision(3))} µs`;
  if (seconds < 0.9995) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  if (seconds < 99.95) return `${Number(seconds.toPrecision(3))} s`;
  const pair = (big, bigUnit, smallUnit, ratio) => {
    const whole = Math.floor(big);
    const rest = Math.floor((big - whole) * ratio);
    return rest > 0 && whole < 100 ? `${grouped.format(whole)} ${bigUnit} ${rest} ${smallUnit}` : `${grouped.format(whole)} ${bigUnit}`;
  };
  if (seconds < 3600) return pair(seconds / 60, 'min', 's', 60);
  if (seconds < 172_800) return pair(seconds / 3600, 'h', 'min', 60);
  if (seconds < 86_400 * 730) return pair(seconds / 86_400, 'd', 'h', 24);
  return `${grouped.format(seconds / (86_400 * 365.25))} years`;
}

// ---------------------------------------------------------------------------------------- history

/**
 * The counters of the last minutes. A point has, for each function and for their sum, the hits, the calls
 * that did not fetch, all calls, and the time saved, which the page adds up from the mean time of a fetch.
 */
const history = { points: [], instance: null, now: 0 };

/** Adds the counters of one moment; `rows` are `[name, hits, saved, calls, mean time of a fetch]`. */
function addPoint(at, rows) {
  const { points } = history;
  const last = points.at(-1);
  if (last && at <= last.at) return;
  const total = [0, 0, 0, last ? last.rows.get(TOTAL)[3] : 0];
  const point = { at, rows: new Map() };
  for (const [name, hits, saved, calls, mean] of rows) {
    const before = last && last.rows.get(name);
    const gained = (last ? Math.max(0, saved - (before ? before[1] : 0)) : 0) * mean;
    point.rows.set(name, [hits, saved, calls, (before ? before[3] : 0) + gained]);
    total[0] += hits;
    total[1] += saved;
    total[2] += calls;
    total[3] += gained;
  }
  point.rows.set(TOTAL, total);
  points.push(point);
  while (points[0].at < at - KEPT) points.shift();
}

const NONE = [0, 0, 0, 0];

/** Returns `measure(gained counters, seconds)` at each point since `since`, over a sliding window. */
function series(name, since, measure) {
  const { points } = history;
  const result = [];
  for (let index = 1, start = 0; index < points.length; index++) {
    const point = points[index];
    while (start + 1 < index && points[start + 1].at <= point.at - WINDOW) start++;
    if (point.at < since) continue;
    const [now, then] = [point.rows.get(name) ?? NONE, points[start].rows.get(name) ?? NONE];
    const gained = now.map((value, place) => Math.max(0, value - then[place]));
    result.push([point.at, measure(gained, (point.at - points[start].at) / 1000)]);
  }
  return result;
}

const hitRate = ([hits, , calls]) => (calls > 0 ? Math.min(1, hits / calls) : null);
const savedPerSecond = ([, saved], seconds) => saved / seconds;
const timePerSecond = ([, , , gained], seconds) => gained / seconds;

// ------------------------------------------------------------------------------------------ plots

const clockTime = (at) =>
  new Date(Date.now() - (history.now - at)).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });

/** Returns a number that is not less than `value`, and round as its half is: 1, 1.5, 2, 3, … times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? value;
}

/** Returns a round duration that is not less than `seconds`, in the unit in which it is shown. */
function roundTimeUp(seconds) {
  const unit = [86_400, 3600, 60, 1, 1e-3].find((size) => seconds >= size) ?? 1e-6;
  return roundUp(seconds / unit) * unit;
}

/** Returns the pieces of a line: a new piece begins after a missing value. */
function pieces(values, x, y) {
  const found = [];
  let piece = null;
  for (const [at, value] of values) {
    if (value === null) piece = null;
    else {
      if (!piece) found.push((piece = []));
      piece.push([x(at), y(value)]);
    }
  }
  return found;
}

const path = (points) => points.map(([x, y], place) => `${place ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');

/** One figure with its course over the last minutes. */
class Plot {
  constructor(title, { unit, format, axis, top, round = roundUp, measure }) {
    Object.assign(this, { title, unit, format, axis, top, round, measure });
    this.values = [];
    this.cursor = null;
    this.heading = make('h3', { text: title });
    this.figure = make('p', { class: 'figure' });
    this.number = document.createTextNode('0');
    this.suffix = make('small', { text: unit ? ` ${unit}` : '' });
    this.figure.append(this.number, this.suffix);
    this.noted = make('p', { class: 'note' });
    this.svg = make('svg', { 'aria-hidden': 'true' });
    this.canvas = make('div', { class: 'canvas', role: 'img', tabindex: '0' }, this.svg);
    this.element = make('article', { class: 'card plot loading' }, this.heading, this.figure, this.noted, this.canvas);
    this.canvas.addEventListener('pointermove', (event) => this.point(event.offsetX));
    this.canvas.addEventListener('pointerleave', () => this.point(null));
    this.canvas.addEventListener('blur', () => this.point(null));
    this.canvas.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && this.values.length) {
        const place = this.cursor === null ? this.values.length - 1 : this.nearest() + step;
        this.cursor = this.values[Math.min(this.values.length - 1, Math.max(0, place))][0];
        this.draw();
        event.preventDefault();
      } else if (event.key === 'Escape') this.point(null);
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  update(name, since, now, summary) {
    Object.assign(this, { since, now, summary });
    this.values = series(name, since, this.measure);
    this.element.classList.remove('loading');
    this.draw();
  }

  /** Moves the cursor to the time at this horizontal place, or removes it. */
  point(place) {
    this.cursor = place === null || !this.x ? null : this.time(place);
    this.draw();
  }

  /** Returns the index of the value next to the cursor. */
  nearest() {
    let best = 0;
    this.values.forEach(([at], index) => {
      if (Math.abs(at - this.cursor) < Math.abs(this.values[best][0] - this.cursor)) best = index;
    });
    return best;
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!width || this.since === undefined) return;
    const known = this.values.filter(([, value]) => value !== null);
    const highest = this.top ?? this.round(Math.max(...known.map(([, value]) => value), 1e-9));
    const levels = [0, 0.5, 1].map((share) => [highest * share, known.length || this.top ? this.axis(highest * share) : '']);
    const left = Math.max(...levels.map(([, label]) => label.length)) * 6.6 + 8;
    const [right, top, bottom] = [5, 8, 20];
    const span = this.now - this.since;
    this.x = (at) => left + ((at - this.since) / span) * (width - left - right);
    this.time = (x) => this.since + ((x - left) / (width - left - right)) * span;
    const y = (value) => top + (1 - value / highest) * (height - top - bottom);
    const parts = [];
    for (const [level, label] of levels) {
      parts.push(make('line', { class: 'grid', x1: left, x2: width - right, y1: y(level), y2: y(level) }));
      parts.push(make('text', { x: left - 7, y: y(level) + 4, 'text-anchor': 'end', text: label }));
    }
    for (const [share, anchor] of [[0, 'start'], [0.5, 'middle'], [1, 'end']]) {
      const at = this.since + span * share;
      parts.push(make('text', { x: this.x(at), y: height - 4, 'text-anchor': anchor, text: clockTime(at) }));
    }
    for (const piece of pieces(this.values, this.x, y)) {
      const [first, last] = [piece[0], piece.at(-1)];
      parts.push(make('path', { class: 'area', d: `${path(piece)}L${last[0]} ${y(0)}L${first[0]} ${y(0)}Z` }));
      parts.push(make('path', { class: 'line', d: path(piece) }));
    }
    const shown = this.cursor === null ? this.values.at(-1) : this.values[this.nearest()];
    if (shown && shown[1] !== null) {
      if (this.cursor !== null) parts.push(make('line', { class: 'cross', x1: this.x(shown[0]), x2: this.x(shown[0]), y1: top, y2: y(0) }));
      parts.push(make('circle', { class: 'dot', cx: this.x(shown[0]), cy: y(shown[1]), r: 4 }));
    }
    this.svg.replaceChildren(...parts);
    const value = shown ? shown[1] : null;
    const text = value === null ? '–' : this.format(value);
    if (this.number.data !== text) this.number.data = text;
    this.suffix.hidden = value === null;
    say(this.noted, this.cursor === null || !shown ? this.summary : `at ${clockTime(shown[0])}`);
    const range = known.length ? `between ${this.format(Math.min(...known.map((v) => v[1])))} and ${this.format(Math.max(...known.map((v) => v[1])))}` : 'no calls yet';
    this.canvas.setAttribute('aria-label', `${this.title}: ${text} ${value === null ? '' : this.unit}, ${range} ${this.unit}. Arrow keys read earlier values.`);
  }
}

const plots = {
  rate: new Plot('Hit rate', { unit: '', format: percent, axis: (v) => `${v * 100} %`, top: 1, measure: hitRate }),
  saved: new Plot('Calls saved', { unit: 'per second', format: rate, axis: (v) => (v < 1e-6 ? '0' : short.format(v)), measure: savedPerSecond }),
  time: new Plot('Time saved', { unit: 'per second', format: time, axis: (v) => (v < 1e-6 ? '0' : time(v)), round: roundTimeUp, measure: timePerSecond }),
};
by('plots').append(plots.rate.element, plots.saved.element, plots.time.element);

/** A small line without axes, for a row of the table. */
function spark(name) {
  const [width, height] = [112, 26];
  const [since, now] = [history.now - SPARK_TIME, history.now];
  const values = series(name, since, hitRate);
  const x = (at) => 1 + ((at - since) / (now - since)) * (width - 2);
  const y = (share) => 2 + (1 - share) * (height - 4);
  const lines = pieces(values, x, y).map((piece) => {
    const drawn = piece.length > 1 ? piece : [piece[0], [piece[0][0] + 1.5, piece[0][1]]];
    return make('path', { class: 'line', d: path(drawn) });
  });
  return [make('line', { class: 'grid', x1: 0, x2: width, y1: height - 1, y2: height - 1 }), ...lines];
}

// ------------------------------------------------------------------------------------- the overview

const state = { report: null, selected: TOTAL, sort: 'saved', descending: true, filter: '', uncalled: false, open: new Set(), range: 300, paused: false };

const selected = () => (state.selected === TOTAL ? state.report.total : state.report.caches.find((c) => c.name === state.selected) ?? state.report.total);

function drawOverview() {
  const figures = selected();
  const since = history.now - state.range * 1000;
  const whole = state.selected === TOTAL;
  say(by('scope'), whole ? 'all functions' : state.selected);
  by('scope').dataset.whole = whole;
  by('unscope').hidden = whole;
  plots.rate.update(state.selected, since, history.now, figures.hit_rate === null ? 'no calls yet' : `${percent(figures.hit_rate)} of ${count(figures.calls)} calls since the start`);
  plots.saved.update(state.selected, since, history.now, `${count(figures.calls_saved)} since the start`);
  plots.time.update(state.selected, since, history.now, figures.time_saved === null ? 'no fetch was timed yet' : `about ${time(figures.time_saved)} since the start`);
  const { counters } = figures;
  const parts = [
    ['request', 'Request', counters.request_hits], ['local', 'Memory', counters.local_hits], ['remote', 'memcached', counters.remote_hits],
    ['waited', 'Another call’s fetch', counters.waits + counters.paused_answers], ['stale', 'Expired value', counters.stale_answers],
    ['fetched', 'Fetched', counters.misses + counters.bypassed],
  ];
  const sum = parts.reduce((total, [, , part]) => total + part, 0);
  const bar = by('split');
  parts.forEach(([tier, , part], place) => {
    const piece = bar.children[place] ?? bar.appendChild(make('i', { class: `t-${tier}` }));
    piece.style.width = sum ? `${(part / sum) * 100}%` : '0';
    piece.hidden = !part;
  });
  const texts = parts.map(([tier, title, part]) => [tier, title, sum ? percent(part / sum) : '–', count(part)]);
  bar.setAttribute('aria-label', sum ? texts.map(([, title, share]) => `${title} ${share}`).join(', ') : 'no calls yet');
  const legend = by('split-legend');
  texts.forEach(([tier, title, share, number], place) => {
    const item = legend.children[place] ?? legend.appendChild(
      make('li', {}, make('i', { class: `swatch t-${tier}`, 'aria-hidden': 'true' }), make('span', { text: title }), make('b'), make('span')));
    item.hidden = place >= 3 && !parts[place][2];
    say(item.children[2], share);
    say(item.children[3], number);
  });
}

function drawHealth() {
  const { enabled, health } = state.report;
  const [level, text] = !enabled ? ['warn', 'The cache is off']
    : health.servers.length ? ['bad', `${health.servers.length} ${health.servers.length === 1 ? 'server is' : 'servers are'} out`]
    : health.shared ? ['good', 'All servers up'] : ['good', 'In memory only'];
  by('health').dataset.level = level;
  say(by('health'), text);
}

// -------------------------------------------------------------------------------- table of functions

const COLUMNS = [
  { id: 'name', title: 'Function', value: (f) => f.name },
  { id: 'rate', title: 'Hit rate', num: true, value: (f) => f.hit_rate ?? -1 },
  { id: 'spark', title: 'Last 5 min', num: true, class: 'wide' },
  { id: 'calls', title: 'Calls', num: true, class: 'mid', value: (f) => f.calls },
  { id: 'saved', title: 'Saved', num: true, value: (f) => f.calls_saved },
  { id: 'time', title: 'Time saved', num: true, class: 'mid', value: (f) => f.time_saved ?? -1 },
  { id: 'mean', title: 'Fetch, mean', num: true, class: 'wide', value: (f) => f.fetch?.mean ?? -1 },
  { id: 'p99', title: '99th', num: true, class: 'wide', value: (f) => f.fetch?.p99 ?? -1 },
  { id: 'errors', title: 'Failed', num: true, class: 'wide', value: (f) => f.counters.fetch_errors },
];

/** The counters in the order in which an opened row shows them. Others follow by their own names. */
const COUNTERS = {
  request_hits: 'Request hits', local_hits: 'Memory hits', remote_hits: 'memcached hits', waits: 'Waited', misses: 'Misses', stale_answers: 'Stale answers',
  paused_answers: 'Paused answers', bypassed: 'Bypassed', cancelled: 'Cancelled', fetches: 'Fetches', fetch_errors: 'Failed fetches', refreshes: 'Refreshes',
  not_cached: 'Not cached', fills: 'Stored in memcached', fills_dropped: 'Not stored', leases_won: 'Leases won', leases_busy: 'Leases busy',
  lease_timeouts: 'Lease timeouts', remote_errors: 'Remote errors', invalidations: 'Invalidations', overwrites: 'Overwrites',
};
const counterTitle = (name) => COUNTERS[name] ?? (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll('_', ' ');

function inOrder(counters) {
  const order = Object.keys(COUNTERS);
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return Object.entries(counters).sort(([a], [b]) => place(a) - place(b));
}

const headers = new Map();
for (const column of COLUMNS) {
  const cell = make('th', { scope: 'col', class: `${column.num ? 'num' : ''} ${column.class ?? ''}`.trim() });
  if (column.value) {
    cell.append(make('button', { type: 'button', text: column.title, click: () => {
      state.descending = state.sort === column.id ? !state.descending : column.id !== 'name';
      state.sort = column.id;
      drawFunctions(true);
    } }));
  } else cell.textContent = column.title;
  headers.set(column.id, cell);
  by('functions-head').append(cell);
}

/** The rows of the table by name. A row is made once and then changed, so that focus and selection stay. */
const rows = new Map();

function row(name) {
  const cells = {};
  const opener = make('button', { type: 'button', class: 'opener', 'aria-expanded': 'false', 'aria-label': `Counters of ${name}`, click: () => {
    if (!state.open.delete(name)) state.open.add(name);
    drawFunctions();
  } }, make('span', { text: '▶', 'aria-hidden': 'true' }));
  const select = make('button', { type: 'button', text: name, title: 'Show this function in the plots', click: () => {
    state.selected = state.selected === name ? TOTAL : name;
    drawOverview();
    drawFunctions();
  } });
  const element = make('tr', {}, make('th', { scope: 'row' }, make('div', { class: 'name' }, opener, select)));
  for (const column of COLUMNS.slice(1)) {
    cells[column.id] = make('td', { class: `num ${column.class ?? ''}`.trim() });
    element.append(cells[column.id]);
  }
  const bar = make('b');
  const share = make('span');
  cells.rate.append(make('span', { class: 'meter' }, make('i', { 'aria-hidden': 'true' }, bar), share));
  const line = make('svg', { class: 'spark', viewBox: '0 0 112 26', role: 'img', 'aria-label': `Hit rate of ${name} in the last five minutes` });
  cells.spark.append(line);
  const list = make('dl', { class: 'counters' });
  const detail = make('tr', { class: 'detail', hidden: true }, make('td', { colspan: COLUMNS.length }, list));
  return { element, detail, cells, opener, select, bar, share, line, list };
}

function fillRow(parts, figures) {
  const { name, counters } = figures;
  say(parts.share, percent(figures.hit_rate));
  parts.bar.style.width = `${(figures.hit_rate ?? 0) * 100}%`;
  parts.line.replaceChildren(...spark(name));
  const exact = (cell, number) => {
    say(cell, count(number));
    if (number >= 10_000) cell.title = grouped.format(number);
  };
  exact(parts.cells.calls, figures.calls);
  exact(parts.cells.saved, figures.calls_saved);
  say(parts.cells.time, time(figures.time_saved));
  say(parts.cells.mean, time(figures.fetch?.mean));
  say(parts.cells.p99, time(figures.fetch?.p99));
  exact(parts.cells.errors, counters.fetch_errors);
  parts.element.dataset.selected = state.selected === name;
  parts.select.setAttribute('aria-pressed', state.selected === name);
  const open = state.open.has(name);
  parts.opener.setAttribute('aria-expanded', open);
  parts.detail.hidden = !open;
  if (open) {
    inOrder(counters).forEach(([counter, value], place) => {
      const pair = parts.list.children[place] ?? parts.list.appendChild(make('div', {}, make('dt'), make('dd')));
      say(pair.firstChild, counterTitle(counter));
      say(pair.lastChild, grouped.format(value));
    });
  }
}

function drawFunctions(sortNow = false) {
  const all = state.report.caches;
  const wanted = state.filter.trim().toLowerCase();
  const shown = all.filter((f) => (state.uncalled || f.calls > 0 || f.counters.bypassed > 0) && f.name.includes(wanted));
  const { value } = COLUMNS.find((column) => column.id === state.sort);
  const sign = state.descending ? -1 : 1;
  shown.sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    return left === right ? (a.name < b.name ? -1 : 1) : left < right ? -sign : sign;
  });
  for (const [id, cell] of headers) {
    if (id === state.sort) cell.setAttribute('aria-sort', state.descending ? 'descending' : 'ascending');
    else cell.removeAttribute('aria-sort');
  }
  const body = by('functions-body');
  const names = new Set(shown.map((f) => f.name));
  for (const [name, parts] of rows) {
    if (!names.has(name)) {
      parts.element.remove();
      parts.detail.remove();
      rows.delete(name);
    }
  }
  // Rows do not change places under a pointer or a keyboard.
  const inUse = !sortNow && rows.size > 0 && (body.matches(':hover') || body.contains(document.activeElement));
  let previous = null;
  for (const figures of shown) {
    let parts = rows.get(figures.name);
    const isNew = !parts;
    if (isNew) rows.set(figures.name, (parts = row(figures.name)));
    fillRow(parts, figures);
    const place = previous ? previous.nextSibling : body.firstChild;
    if (isNew || (!inUse && place !== parts.element)) {
      body.insertBefore(parts.element, place);
      body.insertBefore(parts.detail, parts.element.nextSibling);
    }
    previous = parts.detail;
  }
  const called = all.filter((f) => f.calls > 0).length;
  say(by('functions-count'), wanted || shown.length !== called ? `${shown.length} of ${all.length}` : `${called} of ${all.length} called`);
  by('functions-table').hidden = shown.length === 0;
  by('functions-empty').hidden = shown.length > 0;
  say(by('functions-empty'), all.length === 0 ? 'This program has no annotated function.'
    : wanted ? `No function has “${state.filter.trim()}” in its name.`
    : 'No annotated function was called yet. The figures appear with the first call.');
}

by('filter').addEventListener('input', (event) => {
  state.filter = event.target.value;
  if (state.report) drawFunctions(true);
});
by('uncalled').addEventListener('change', (event) => {
  state.uncalled = event.target.checked;
  if (state.report) drawFunctions(true);
});
by('unscope').addEventListener('click', () => {
  state.selected = TOTAL;
  drawOverview();
  drawFunctions();
});
for (const input of document.querySelectorAll('input[name="range"]')) {
  input.addEventListener('change', () => {
    state.range = Number(input.value);
    if (state.report) drawOverview();
  });
}

// ------------------------------------------------------------------------------------------- tiers

function pairs(list, entries) {
  entries.forEach(([title, text], place) => {
    const pair = list.children[place] ?? list.appendChild(make('div', {}, make('dt'), make('dd')));
    say(pair.firstChild, title);
    say(pair.lastChild, text);
  });
  while (list.children.length > entries.length) list.lastChild.remove();
}

const gauge = make('b');
const localBytes = make('p', { class: 'bytes' }, make('span'), make('small'));
const localList = make('dl', { class: 'pairs' });
by('local-body').append(localBytes, make('div', { class: 'gauge', 'aria-hidden': 'true' }, gauge), localList);

const EVICTIONS = [
  ['size', 'Removed for lack of room'], ['expired', 'Removed after their time'], ['replaced', 'Replaced by a newer value'],
  ['invalidated', 'Invalidated'], ['cleared', 'Cleared'],
];

function drawLocal() {
  const { entries, bytes: used, capacity, evictions } = state.report.local;
  say(localBytes.firstChild, bytes(used));
  say(localBytes.lastChild, capacity ? ` of ${bytes(capacity)}` : '');
  gauge.style.width = capacity ? `${Math.min(100, (used / capacity) * 100)}%` : '0';
  const causes = EVICTIONS.map(([cause, title]) => [title, grouped.format(evictions[cause] ?? 0)]);
  pairs(localList, [['Entries', grouped.format(entries)], ...causes]);
}

const SERVER_STATES = { up: ['good', 'Up'], ejected: ['bad', 'Out'] };

function drawServers(servers) {
  const body = by('servers-body');
  servers.forEach((server, place) => {
    let line = body.children[place];
    if (!line) {
      line = make('tr', {}, make('th', { scope: 'row', class: 'key' }), make('td', {}, make('span', { class: 'pill' })));
      for (const kind of ['num', 'num wide', 'num wide', 'num wide', 'num mid', 'num mid']) line.append(make('td', { class: kind }));
      body.append(line);
    }
    const [level, text] = SERVER_STATES[server.state] ?? ['unknown', server.state];
    line.dataset.state = server.state;
    say(line.children[0], server.address);
    const pill = line.children[1].firstChild;
    pill.dataset.level = level;
    say(pill, text);
    const cells = [count(server.exchanges), count(server.errors), count(server.timeouts), count(server.ejections), time(server.durations?.p50), time(server.durations?.p99)];
    cells.forEach((cell, index) => say(line.children[index + 2], cell));
  });
  while (body.children.length > servers.length) body.lastChild.remove();
  by('servers-table').hidden = servers.length === 0;
  by('servers-empty').hidden = servers.length > 0;
  say(by('servers-empty'), state.report.enabled ? 'This cache has no memcached servers: each process has its own entries.' : 'The cache is off: every call fetches.');
}

// ------------------------------------------------------------------------------------------ ledger

async function drawLedger() {
  const { declarations, findings } = await ask('api/ledger');
  by('ledger-body').replaceChildren(...declarations.map((declaration) => {
    const cell = (label, text, kind = '') => make('td', { 'data-label': label, class: kind }, make('span', { text }));
    return make('tr', {},
      make('th', { scope: 'row' }, make('span', { text: declaration.name }), make('small', { class: 'mono', text: declaration.function }), make('small', { text: declaration.place })),
      cell('Version', declaration.version ?? '–', declaration.version ? 'mono' : ''), cell('Lives for', declaration.ttl),
      cell('Tiers', declaration.tiers.join(', ') || 'none'), cell('Options', declaration.options.join(', ') || '–'),
      cell('Reason to overwrite', declaration.overwrite_reason ?? 'write-once', declaration.overwrite_reason ? 'reason' : 'once'));
  }));
  by('findings').replaceChildren(...findings.map((text) => make('li', { text })));
  by('findings').hidden = findings.length === 0;
  const reasons = declarations.filter((declaration) => declaration.overwrite_reason).length;
  say(by('ledger-count'), `${declarations.length} ${declarations.length === 1 ? 'function' : 'functions'}, ${reasons} of them may overwrite`);
  by('ledger-table').hidden = declarations.length === 0;
  by('ledger-empty').hidden = declarations.length > 0;
  say(by('ledger-empty'), 'This program has no annotated function.');
}

// ------------------------------------------------------------------------------------------ search

const spoken = (level, text) => make('p', { class: 'said', 'data-level': level, text });

function result(title, entries, level = '', note = '') {
  const list = make('dl', { class: 'pairs' });
  pairs(list, entries);
  return make('section', { class: 'result' }, make('h4', {}, make('span', { text: title }), make('span', { class: 'said', 'data-level': level, text: note })), list);
}

/** Shows what the tiers have of one entry. The token stays in its field, and in no storage. */
function drawFound(entry) {
  const results = [];
  const lived = (tier) => [['Time left', time(tier.time_left)], ['Age', time(tier.age)], ['Size', tier.size === null ? '–' : bytes(tier.size)]].filter(([, text]) => text !== '–');
  if (entry.local) {
    const kept = entry.local.expired ? ['bad', 'expired, kept for errors'] : ['good', 'found'];
    results.push(result('Memory of this process', [...lived(entry.local), ...(entry.local.type ? [['Type', entry.local.type]] : [])], ...kept));
  } else results.push(result('Memory of this process', [], '', 'not here'));
  const { remote } = entry;
  if (remote.outcome === 'found') results.push(result('memcached', [['Server', remote.server], ...lived(remote)], 'good', 'found'));
  else if (remote.outcome === 'failed') results.push(result('memcached', [['Error', remote.error]], 'bad', 'no answer'));
  else results.push(result('memcached', [['', { missing: '', unknown: 'write the name before the digest', unused: 'this function does not use it', none: 'no servers' }[remote.outcome]]].filter(([, text]) => text), '', remote.outcome === 'missing' ? 'not here' : 'not asked'));
  const content = [make('p', { class: 'key mono', text: entry.key }), make('div', { class: 'results' }, ...results)];
  if (state.report?.may_invalidate && entry.name) content.push(invalidation(entry));
  by('found').replaceChildren(...content);
}

/** Returns the places from which an invalidation of this entry removes it. */
const removedFrom = ({ remote }) => (['none', 'unused'].includes(remote.outcome) ? 'this process' : 'this process and from memcached');

function invalidation(entry) {
  const token = make('input', { type: 'password', id: 'token', autocomplete: 'off', required: true });
  const said = make('div', { role: 'status' });
  const form = make('form', { id: 'invalidate-form', submit: async (event) => {
    event.preventDefault();
    said.replaceChildren();
    const given = token.value.trim();
    // A header cannot carry such a token, and no console accepts it.
    if (!/^[\x21-\x7e]*$/.test(given)) {
      said.replaceChildren(spoken('bad', 'The token is wrong.'));
      token.select();
      return;
    }
    try {
      const answer = await ask(`api/entries/${encodeURIComponent(entry.key)}`, { method: 'DELETE', headers: { 'x-cache-token': given } });
      drawFound(answer.entry);
      by('found').append(spoken('good', `The entry was removed from ${removedFrom(answer.entry)}. Other processes may keep a local entry for their local_ttl.`));
      by('key').focus();
    } catch (error) {
      said.replaceChildren(spoken('bad', error.message));
      token.select();
    }
  } }, make('label', { for: 'token', text: 'Token' }), make('div', { class: 'row' }, token, make('button', { type: 'submit', class: 'danger', text: 'Invalidate' })),
  make('p', { class: 'hint', text: `Removes the entry from ${removedFrom(entry)}. The next call fetches.` }), said);
  return form;
}

by('search-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const key = by('key').value.trim();
  const button = event.target.querySelector('button');
  button.disabled = true;
  by('found').replaceChildren(make('p', { class: 'hint', text: 'Searching …' }));
  try {
    drawFound(await ask(`api/entries/${encodeURIComponent(key)}`));
  } catch (error) {
    by('found').replaceChildren(spoken('bad', error.message));
  } finally {
    button.disabled = false;
  }
});

// ----------------------------------------------------------------------------------------- polling

/** Asks the program. An answer that is not a success becomes an error with the program's own words. */
async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(new URL(address, base), { ...options, cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
  } catch (error) {
    throw Object.assign(new Error(error.name === 'TimeoutError' ? 'The program did not answer in time.' : 'The program does not answer.'), { lost: true });
  }
  if (!response.ok) {
    const text = (await response.text()).trim();
    throw new Error(text ? text.charAt(0).toUpperCase() + text.slice(1) : `The program answered ${response.status}.`);
  }
  return response.json();
}

const rowsOf = (report) => report.caches.filter((f) => f.calls > 0).map((f) => [f.name, f.counters.request_hits + f.counters.local_hits + f.counters.remote_hits, f.calls_saved, f.calls, f.fetch?.mean ?? 0]);

/** Begins a new history, after the page is loaded or the program has started again. */
async function begin(instance) {
  // If one of the two fails, the instance is not remembered, so the next refresh begins again.
  await drawLedger();
  const { names, samples } = await ask('api/history');
  Object.assign(history, { points: [], instance, now: 0 });
  for (const { at, rows: sampled } of samples) addPoint(at, sampled.map(([index, ...figures]) => [names[index], ...figures]));
}

async function refresh() {
  const [report, { servers }] = await Promise.all([ask('api/caches'), ask('api/servers')]);
  if (report.instance !== history.instance) await begin(report.instance);
  state.report = report;
  history.now = report.at;
  addPoint(report.at, rowsOf(report));
  drawHealth();
  drawOverview();
  drawFunctions();
  drawLocal();
  drawServers(servers);
  by('search').hidden = !report.searches_entries;
  say(by('about'), `Counters are those of this process, which has counted for ${time(report.at / 1000)}.${report.namespace ? ` Keys begin with ${report.namespace}:` : ''}`);
}

const loop = { timer: null, failures: 0, running: false };

function trouble(text) {
  const box = by('trouble');
  if (text === null) {
    box.hidden = true;
    box.replaceChildren();
  } else {
    if (box.hidden) box.replaceChildren(make('p'));
    box.hidden = false;
    say(box.firstChild, text);
  }
}

async function tick() {
  if (loop.running || state.paused || document.hidden) return;
  loop.running = true;
  clearTimeout(loop.timer);
  try {
    await refresh();
    loop.failures = 0;
    document.body.dataset.state = 'live';
    trouble(null);
    say(by('updated'), `live, ${new Date().toLocaleTimeString('en-GB')}`);
  } catch (error) {
    loop.failures++;
    document.body.dataset.state = 'lost';
    by('health').dataset.level = 'unknown';
    say(by('health'), 'No connection');
    trouble(`${error.message} The figures below are the last ones; this page tries again by itself.`);
    say(by('updated'), 'not updated');
  } finally {
    loop.running = false;
    const wait = loop.failures ? Math.min(LONGEST_RETRY, POLL * 2 ** (loop.failures - 1)) : POLL;
    loop.timer = setTimeout(tick, wait);
  }
}

by('pause').addEventListener('click', (event) => {
  state.paused = !state.paused;
  event.target.setAttribute('aria-pressed', state.paused);
  say(event.target, state.paused ? 'Resume' : 'Pause');
  if (state.paused) {
    clearTimeout(loop.timer);
    say(by('updated'), 'paused');
  } else tick();
});
document.addEventListener('visibilitychange', tick);
addEventListener('online', tick);
tick();
