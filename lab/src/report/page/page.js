'use strict';
(() => {
  const run = JSON.parse(document.getElementById('run').textContent);
  const SVG = 'http://www.w3.org/2000/svg';
  const COLOURS = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => `var(--c${n})`);

  // Elements. Texts are only ever set as texts.
  function element(parent, name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    parent.append(made);
    return made;
  }
  function shape(parent, name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }
  const body = (id) => document.querySelector(`#${id} .body`);
  const hide = (id) => { document.getElementById(id).hidden = true; };
  function table(parent, heads, rows) {
    const made = element(element(parent, 'div', undefined, 'scroll'), 'table');
    const head = element(element(made, 'thead'), 'tr');
    for (const [at, text] of heads.entries()) {
      const cell = element(head, 'th', text, rows.some((row) => row[at]?.wrap || row[at]?.className === 'left') ? 'left' : '');
      cell.scope = 'col';
    }
    const lines = element(made, 'tbody');
    for (const row of rows) {
      const line = element(lines, 'tr');
      for (const cell of row) {
        const { text, className, wrap } = typeof cell === 'object' && cell !== null ? cell : { text: cell };
        element(line, 'td', text ?? '', [className ?? '', wrap ? 'wrap' : ''].join(' ').trim());
      }
    }
    return made;
  }

  // Numbers for people.
  const digits = (value, most) => value.toLocaleString('en', { maximumFractionDigits: most });
  function time(us) {
    if (us === null || us === undefined) return '–';
    const size = Math.abs(us);
    if (size < 1e3) return `${digits(us, 0)} µs`;
    if (size < 1e6) return `${digits(us / 1e3, size < 1e4 ? 2 : 1)} ms`;
    return `${digits(us / 1e6, 2)} s`;
  }
  const seconds = (us) => `${digits(us / 1e6, 2)} s`;
  const rate = (value) => (value === null ? '–' : `${digits(value, value < 10 ? 1 : 0)}/s`);
  const cpus = (value) => (value === null ? '–' : `${digits(value * 100, 1)} %`);
  function bytes(value) {
    if (value === null) return '–';
    const units = ['B', 'KiB', 'MiB', 'GiB'];
    const power = value < 1 ? 0 : Math.min(3, Math.floor(Math.log2(value) / 10));
    return `${digits(value / 1024 ** power, power ? 1 : 0)} ${units[power]}`;
  }

  // The head: verdict first.
  const MARKS = { passed: 'good', failed: 'bad', inconclusive: 'doubt', interrupted: 'doubt' };
  function drawHead() {
    const head = document.getElementById('head');
    element(head, 'span', run.verdict.toUpperCase(), `badge ${MARKS[run.verdict]}`);
    element(head, 'h1', run.scenario);
    const broken = run.expectations.filter((e) => !e.passed).length;
    const all = run.expectations.length;
    element(head, 'p', broken ? `${broken} of ${all} expectations broken` : `${all} of ${all} expectations held`);
    if (run.reasons.length) {
      const list = element(head, 'ul');
      for (const reason of run.reasons) element(list, 'li', reason);
    }
    const where = run.world === 'kernel' ? 'Linux kernel' : 'simulator, in virtual time';
    const sidecar = run.sidecar === 'none' ? 'without sidecars' : 'with sidecars';
    const parts = [where, sidecar, `seed ${run.seed}`, `${run.build} build`, `lab ${run.lab}`,
      `${seconds(run.duration_us)} measured after ${run.warmup} of warm-up`];
    if (run.started) parts.push(`from ${run.started.slice(0, 19)}Z on`);
    element(head, 'p', parts.join(' · '), 'soft');
    for (const note of run.fidelity.notes) element(head, 'p', note, 'soft');
  }

  function drawExpectations() {
    if (!run.expectations.length) return hide('expectations');
    const list = element(body('expectations'), 'ul', undefined, 'held');
    for (const expectation of run.expectations) {
      const item = element(list, 'li');
      const [mark, words] = expectation.passed ? ['good', '✓ held'] : ['bad', '✗ broken'];
      element(item, 'b', run.verdict === 'interrupted' ? 'so far' : words, mark);
      element(item, 'span', ` ${expectation.name} `);
      element(item, 'span', `(${expectation.window})`, 'soft');
      if (expectation.recovered_after_us !== null) {
        element(item, 'span', ` recovered after ${time(expectation.recovered_after_us)}`);
      }
      const conditions = element(item, 'div', undefined, 'conditions');
      for (const condition of expectation.conditions) {
        element(conditions, 'code', condition.text);
        element(conditions, 'span', condition.shown, condition.passed ? 'soft' : 'bad');
      }
      if (expectation.note) element(item, 'p', expectation.note, 'doubt');
    }
    if (run.left_out) {
      element(body('expectations'), 'p', `${run.left_out} conditions of the file cannot be judged in this run`, 'soft');
    }
  }

  // The topology: a column for each call that a service is away from a load.
  function drawTopology() {
    const { services, edges } = run.topology;
    const place = body('topology');
    if (!services.length) return hide('topology');
    const columns = [...new Set(services.map((s) => s.column))].sort((a, b) => a - b);
    const [BOX, ROW, GAP, TOP] = [176, 46, 130, 26];
    const SHOWN = 8;
    const where = new Map();
    const below = new Map();
    for (const service of services) {
      const column = columns.indexOf(service.column);
      const y = (below.get(column) ?? 0) + TOP;
      const rows = Math.min(service.instances.length, SHOWN) + (service.instances.length > SHOWN ? 0.6 : 0);
      where.set(service.name, { x: 8 + column * (BOX + GAP), y, height: rows * ROW - 8 });
      below.set(column, y + rows * ROW);
    }
    const width = 16 + columns.length * BOX + (columns.length - 1) * GAP;
    const height = Math.max(...below.values()) + 8;
    const svg = shape(element(place, 'div', undefined, 'scroll'), 'svg', {
      width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'data-chart': 'topology',
      'aria-label': edges.map((e) => `${e.from} calls ${e.to}`).join(', ') || 'services',
    });
    for (const edge of edges) {
      const [from, to] = [where.get(edge.from), where.get(edge.to)];
      const [a, b] = [from.y + from.height / 2, to.y + to.height / 2];
      const forth = to.x > from.x;
      const [x1, x2] = forth ? [from.x + BOX, to.x] : [from.x + BOX, to.x + BOX];
      const bend = forth ? (x2 - x1) / 2 : 60;
      shape(svg, 'path', {
        class: 'edge', 'data-mark': '',
        d: `M${x1} ${a} C${x1 + bend} ${a} ${forth ? x2 - bend : x2 + bend} ${b} ${x2} ${b}`,
      });
      const words = [...edge.links];
      if (edge.packets !== null) words.push(`${digits(edge.packets, 0)} packets`);
      words.forEach((text, line) => {
        shape(svg, 'text', { x: (x1 + x2) / 2, y: (a + b) / 2 - 6 - 14 * (words.length - 1 - line), 'text-anchor': 'middle' }, text);
      });
    }
    for (const service of services) {
      const { x, y } = where.get(service.name);
      shape(svg, 'text', { x, y: y - 8, class: 'name', 'font-weight': 600 }, service.name);
      service.instances.slice(0, SHOWN).forEach((instance, row) => {
        const hit = instance.faults.length || instance.has_ended;
        const group = shape(svg, 'g', {});
        const faults = instance.faults.map((at) => run.faults[at].name);
        if (instance.has_ended) faults.push('ended unexpectedly');
        shape(group, 'title', {}, [instance.name, ...faults].join(': '));
        shape(group, 'rect', { class: hit ? 'box hit' : 'box', 'data-mark': '', x, y: y + row * ROW, width: BOX, height: ROW - 8, rx: 6 });
        shape(group, 'text', { class: 'name', x: x + 8, y: y + row * ROW + 16 }, clip(instance.name, 24));
        const parts = [instance.has_sidecar ? 'sidecar' : '', instance.has_app ? 'app' : '', instance.zone ?? '', ...faults];
        shape(group, 'text', { x: x + 8, y: y + row * ROW + 31 }, clip(parts.filter(Boolean).join(' · '), 26));
      });
      if (service.instances.length > SHOWN) {
        shape(svg, 'text', { x: x + 8, y: y + SHOWN * ROW + 12 }, `and ${service.instances.length - SHOWN} more`);
      }
    }
  }
  const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // The axis of time, which all charts share.
  const { step_us: step, count } = run.axis;
  const LEFT = 64;
  const RIGHT = 12;
  let marked = null;
  const charts = [];
  const xOf = (us, width) => LEFT + (us / (step * count)) * (width - LEFT - RIGHT);
  function ticks(most, count, base = 1) {
    if (!(most > 0)) return [0];
    if (base > 1) {
      const scale = base ** Math.max(0, Math.floor(Math.log(most) / Math.log(base)));
      return ticks(most / scale, count).map((value) => value * scale);
    }
    const raw = most / count;
    const ten = 10 ** Math.floor(Math.log10(raw));
    const unit = [1, 2, 5, 10].find((n) => n * ten >= raw) * ten;
    return Array.from({ length: Math.floor(most / unit + 1e-9) + 1 }, (_, at) => at * unit);
  }
  function timeTicks(svg, width, y) {
    for (const at of ticks(step * count, width < 500 ? 4 : 8)) {
      const x = xOf(at, width);
      shape(svg, 'text', { x, y, 'text-anchor': at === 0 ? 'start' : x > width - 30 ? 'end' : 'middle' }, seconds(at));
    }
  }
  const faultSpans = run.faults.filter((f) => f.start_us !== null)
    .map((f) => ({ name: f.name, from: Math.max(0, f.start_us), to: Math.min(f.end_us ?? run.duration_us, run.duration_us) }));
  function shades(svg, width, height) {
    for (const { from, to } of faultSpans) {
      const x = xOf(from, width);
      shape(svg, 'rect', { class: 'shade', x, y: 0, width: Math.max(2, xOf(to, width) - x), height });
    }
  }

  // What was in force and what was expected, as bars.
  function spans(parent) {
    const rows = [
      ...faultSpans.map((f) => ({ ...f, kind: 'fault', mark: 'var(--c7)' })),
      ...run.expectations.filter((e) => e.has_window).map((e) => ({
        name: `${e.passed ? '✓' : '✗'} ${e.name}`, from: Math.max(0, e.span[0]), to: Math.min(e.span[1], run.duration_us),
        mark: e.passed ? 'var(--c5)' : 'var(--bad)',
      })),
    ];
    const box = element(parent, 'div', undefined, 'chart');
    const legend = element(box, 'div', undefined, 'legend');
    element(legend, 'h3', 'Faults and expectations');
    const at = element(legend, 'span', undefined, 'key');
    at.setAttribute('aria-live', 'polite');
    charts.push({
      draw(width) {
        box.querySelector('svg')?.remove();
        const height = rows.length * 24 + 20;
        const svg = shape(box, 'svg', { height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'data-chart': 'spans', 'aria-label': rows.map((r) => r.name).join(', ') || 'nothing was in force' });
        shape(svg, 'line', { class: 'base', x1: LEFT, x2: width - RIGHT, y1: height - 18, y2: height - 18, 'data-mark': '' });
        rows.forEach((row, line) => {
          const [x, end] = [xOf(row.from, width), xOf(row.to, width)];
          const y = line * 24;
          shape(svg, 'rect', { x, y: y + 15, width: Math.max(3, end - x), height: 5, rx: 2, fill: row.mark, 'data-mark': '' });
          const most = Math.floor((width - LEFT) / 7);
          const right = x > width * 0.6;
          shape(svg, 'text', { x: right ? end : x, y: y + 11, 'text-anchor': right ? 'end' : 'start' }, clip(row.kind ? `${row.kind} ${row.name}` : row.name, most));
        });
        timeTicks(svg, width, height - 4);
        return { svg, height: height - 18 };
      },
      tell() { at.textContent = marked === null ? 'arrow keys or the pointer read values' : `at ${seconds(marked * step)}`; },
    });
  }

  // A chart of lines, or of stacked bars.
  function chart(parent, { title, series, show, log, stacked, note }) {
    const box = element(parent, 'div', undefined, 'chart');
    const legend = element(box, 'div', undefined, 'legend');
    const heading = element(legend, 'h3', title);
    const keys = [];
    const made = {
      set(newTitle, newSeries) {
        heading.textContent = newTitle;
        series = newSeries;
        keys.splice(0).forEach(({ key }) => key.remove());
        for (const line of series) {
          const key = element(legend, 'span', undefined, 'key');
          element(key, 'span', undefined, 'swatch').style.background = line.colour;
          element(key, 'span', `${line.name} `);
          keys.push({ key, value: element(key, 'b'), line });
        }
      },
      draw(width) {
        box.querySelector('svg')?.remove();
        const [height, top] = [130, 8];
        const bottom = height - 8;
        const known = series.flatMap((line) => line.values.filter((v) => v !== null && (!log || v > 0)));
        const sums = stacked ? series[0]?.values.map((_, at) => series.reduce((sum, line) => sum + (line.values[at] ?? 0), 0)) ?? [] : known;
        const most = sums.reduce((a, b) => Math.max(a, b), 0);
        const least = known.reduce((a, b) => Math.min(a, b), Infinity);
        const low = log && known.length ? 10 ** Math.floor(Math.log10(least)) : 0;
        const high = log ? 10 ** Math.ceil(Math.log10(Math.max(most, low * 10))) : (most || 1) * 1.05;
        const share = (v) => (log ? Math.log10(Math.max(v, low) / low) / Math.log10(high / low) : v / high);
        const y = (v) => bottom - share(v) * (bottom - top);
        const svg = shape(box, 'svg', { height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'data-chart': heading.textContent, 'aria-label': `${heading.textContent}: ${series.map((l) => l.name).join(', ')}` });
        shades(svg, width, bottom);
        const marks = log ? Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, at) => low * 10 ** at) : ticks(high, 3, show === bytes ? 1024 : 1);
        for (const value of known.length ? marks : [0]) {
          shape(svg, 'line', { class: value === marks[0] ? 'base' : 'grid', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) });
          shape(svg, 'text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, show(value));
        }
        if (stacked) bars(svg, width, y);
        else for (const line of series) shape(svg, 'path', { class: 'line', stroke: line.colour, 'data-mark': '', d: path(line.values, width, y, log) });
        return { svg, height: bottom };
      },
      tell() {
        for (const { value, line } of keys) value.textContent = marked === null ? '' : show(line.values[marked] ?? null);
      },
    };
    function bars(svg, width, y) {
      const below = new Array(count).fill(0);
      for (const line of series) {
        let d = '';
        line.values.forEach((value, at) => {
          if (!value) return;
          const [x, end] = [xOf(at * step, width), xOf((at + 1) * step, width)];
          d += `M${x.toFixed(1)} ${y(below[at]).toFixed(1)}H${Math.max(end - 0.5, x + 1).toFixed(1)}V${y(below[at] + value).toFixed(1)}H${x.toFixed(1)}Z`;
          below[at] += value;
        });
        shape(svg, 'path', { fill: line.colour, 'data-mark': '', d });
      }
    }
    made.set(title, series);
    if (note) element(box, 'p', note, 'soft');
    charts.push(made);
    return made;
  }
  // A line with a gap where nothing is known.
  function path(values, width, y, log) {
    let d = '';
    let pen = 'M';
    values.forEach((value, at) => {
      if (value === null || (log && value <= 0)) { pen = 'M'; return; }
      const x = xOf((at + 0.5) * step, width);
      // One value alone would be a point without length.
      d += pen === 'M' ? `M${(x - 1).toFixed(1)} ${y(value).toFixed(1)}L${x.toFixed(1)} ${y(value).toFixed(1)}` : `L${x.toFixed(1)} ${y(value).toFixed(1)}`;
      pen = 'L';
    });
    return d;
  }

  const coloured = (lines) => lines.map((line, at) => ({ ...line, colour: COLOURS[at % COLOURS.length] }));
  function drawTime() {
    const place = body('time');
    let latency = null;
    const percentiles = (load) => ['p50', 'p90', 'p99'].map((name) => ({ name, values: load[`${name}_us`], colour: `var(--${name})` }));
    if (run.loads.length > 1) {
      const pick = element(place, 'div', undefined, 'pick');
      element(pick, 'span', 'Latency of', 'soft');
      run.loads.forEach((load, at) => {
        const button = element(pick, 'button', load.name);
        button.type = 'button';
        button.setAttribute('aria-pressed', at === 0);
        button.addEventListener('click', () => {
          for (const other of pick.querySelectorAll('button')) other.setAttribute('aria-pressed', other === button);
          latency.set(`Latency of ${load.name}`, percentiles(load));
          draw();
        });
      });
    }
    const stack = element(place, 'div', undefined, 'charts');
    stack.tabIndex = 0;
    stack.setAttribute('role', 'group');
    stack.setAttribute('aria-label', 'Charts over time. The arrow keys read the values at a time.');
    spans(stack);
    if (run.loads.length) {
      chart(stack, { title: 'Answered requests', series: coloured(run.loads.map(({ name, ok }) => ({ name, values: ok }))), show: rate });
      latency = chart(stack, { title: `Latency of ${run.loads[0].name}`, series: percentiles(run.loads[0]), show: time, log: true });
      const causes = new Map();
      for (const load of run.loads) {
        for (const [cause, values] of Object.entries(load.errors)) {
          const sum = causes.get(cause) ?? new Array(count).fill(0);
          causes.set(cause, sum.map((value, at) => value + values[at]));
        }
      }
      if (causes.size) {
        const series = [...causes].map(([name, values], at) => ({ name: CAUSES[name] ?? `status ${name}`, values, colour: COLOURS[(at + 7) % COLOURS.length] }));
        chart(stack, { title: 'Errors', series, show: rate, stacked: true });
      }
    }
    if (run.efforts.length) chart(stack, { title: 'Connects, retries and failures of sidecars', series: coloured(run.efforts), show: rate });
    // A process has one colour in all charts.
    const users = [...new Set([...run.cpu.lines, ...run.memory.lines].map((line) => line.name))];
    const ofUsers = (lines) => lines.map((line) => ({ ...line, colour: COLOURS[users.indexOf(line.name) % COLOURS.length] }));
    const more = (usage) => (usage.left_out ? `${usage.left_out} processes that use less are not shown` : undefined);
    if (run.cpu.lines.length) chart(stack, { title: 'CPU', series: ofUsers(run.cpu.lines), show: cpus, note: more(run.cpu) });
    if (run.memory.lines.length) chart(stack, { title: 'Memory', series: ofUsers(run.memory.lines), show: bytes, note: more(run.memory) });

    let drawn = [];
    function draw() {
      const width = Math.max(240, stack.clientWidth);
      drawn = charts.map((each) => each.draw(width));
      mark(marked);
    }
    function mark(at) {
      marked = at === null ? null : Math.max(0, Math.min(count - 1, at));
      const width = Math.max(240, stack.clientWidth);
      drawn.forEach(({ svg, height }) => {
        svg.querySelector('.cross')?.remove();
        if (marked !== null) {
          const x = xOf((marked + 0.5) * step, width);
          shape(svg, 'line', { class: 'cross', x1: x, x2: x, y1: 0, y2: height });
        }
      });
      for (const each of charts) each.tell();
    }
    stack.addEventListener('pointermove', (event) => {
      const left = stack.getBoundingClientRect().left;
      const width = stack.clientWidth;
      const share = (event.clientX - left - LEFT) / (width - LEFT - RIGHT);
      if (share >= 0 && share <= 1) mark(Math.floor(share * count));
    });
    stack.addEventListener('pointerleave', () => mark(null));
    stack.addEventListener('keydown', (event) => {
      const far = event.shiftKey ? 10 : 1;
      const moves = { ArrowRight: (marked ?? -1) + far, ArrowLeft: (marked ?? count) - far, Home: 0, End: count - 1, Escape: null };
      if (!(event.key in moves)) return;
      event.preventDefault();
      mark(moves[event.key]);
    });
    new ResizeObserver(draw).observe(stack);
    draw();
  }
  const CAUSES = { connect: 'could not connect', reset: 'broken off', timeout: 'timed out', mismatch: 'answered wrongly', dropped: 'never sent' };

  function drawFaults() {
    if (!run.faults.length) return hide('faults');
    const rows = run.faults.map((fault) => {
      const proof = Object.entries(fault.evidence).map(([name, n]) => `${name.replaceAll('_', ' ')} ${digits(n, 0)}`);
      const when = fault.start_us === null ? 'never in force' : `${seconds(fault.start_us)} – ${fault.end_us === null ? 'end' : seconds(fault.end_us)}`;
      return [fault.name, { text: fault.kind, className: 'left' }, { text: when, className: 'left' },
        { text: fault.failed ?? (proof.join(', ') || 'none'), wrap: true, className: fault.failed ? 'bad' : '' },
        { text: fault.instances.join(', '), wrap: true }];
    });
    table(body('faults'), ['fault', 'kind', 'in force', 'evidence', 'instances'], rows);
    const impacts = run.faults.flatMap((fault) => fault.impact.flatMap((impact) => ['before', 'during', 'after'].flatMap((when) => {
      const phase = impact[when];
      return phase ? [[`${fault.name}: ${impact.load}`, { text: when, className: 'left' }, digits(phase.requests, 0),
        { text: digits(phase.errors, 0), className: phase.errors ? 'bad' : '' }, time(phase.p50_us), time(phase.p99_us)]] : [];
    })));
    if (impacts.length) table(body('faults'), ['load', '', 'requests', 'errors', 'p50', 'p99'], impacts);
  }

  // The share of requests that took no longer than some time.
  function drawDistributions() {
    if (!run.distributions.length) return hide('distributions');
    const place = element(body('distributions'), 'div', undefined, 'grid2');
    const colours = { before: 'var(--c0)', during: 'var(--c7)', after: 'var(--c5)' };
    for (const { fault, load, curves } of run.distributions) {
      const box = element(place, 'div', undefined, 'chart');
      const legend = element(box, 'div', undefined, 'legend');
      element(legend, 'h3', `${load}, ${fault}`);
      for (const { when, requests } of curves) {
        const key = element(legend, 'span', undefined, 'key');
        element(key, 'span', undefined, 'swatch').style.background = colours[when];
        element(key, 'span', `${when} (${digits(requests, 0)})`);
      }
      const [width, height, left, bottom] = [340, 170, 44, 146];
      const all = curves.flatMap((curve) => curve.points.map(([us]) => Math.max(1, us)));
      const [low, high] = [10 ** Math.floor(Math.log10(Math.min(...all))), 10 ** Math.ceil(Math.log10(Math.max(...all) * 1.0001))];
      const x = (us) => left + (Math.log10(Math.max(us, low) / low) / Math.log10(high / low)) * (width - left - 10);
      const y = (share) => bottom - share * (bottom - 8);
      const svg = shape(box, 'svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'data-chart': `${load}, ${fault}`, 'aria-label': `Distribution of the latency of ${load} around ${fault}` });
      for (const share of [0, 0.5, 0.9, 1]) {
        shape(svg, 'line', { class: share ? 'grid' : 'base', x1: left, x2: width - 10, y1: y(share), y2: y(share) });
        if (share !== 1) shape(svg, 'text', { x: left - 6, y: y(share) + 4, 'text-anchor': 'end' }, `${share * 100} %`);
      }
      const decades = Math.round(Math.log10(high / low));
      for (let power = 0; power <= decades; power += 1) {
        const at = low * 10 ** power;
        shape(svg, 'line', { class: 'grid', x1: x(at), x2: x(at), y1: 8, y2: bottom });
        shape(svg, 'text', { x: x(at), y: bottom + 16, 'text-anchor': power === decades ? 'end' : 'middle' }, time(at));
      }
      for (const { when, points } of curves) {
        const d = points.map(([us, share], at) => `${at ? 'L' : 'M'}${x(us).toFixed(1)} ${y(share).toFixed(1)}`).join('');
        shape(svg, 'path', { class: 'line', stroke: colours[when], 'data-mark': '', d });
      }
    }
  }

  function drawLoads() {
    if (!run.summaries.length) return hide('loads');
    const rows = run.summaries.map((load) => [load.name, { text: `${load.from} to ${load.to}`, className: 'left' }, rate(load.rate),
      digits(load.requests, 0), { text: digits(load.requests - load.ok, 0), className: load.requests === load.ok ? '' : 'bad' },
      ...['p50_us', 'p90_us', 'p99_us', 'p999_us', 'max_us', 'late_p99_us'].map((key) => time(load[key])),
      { text: Object.entries(load.errors).map(([cause, n]) => `${digits(n, 0)} ${CAUSES[cause] ?? `status ${cause}`}`).join(', '), wrap: true }]);
    table(body('loads'), ['load', '', 'asked', 'requests', 'errors', 'p50', 'p90', 'p99', 'p99.9', 'max', 'sent late', 'causes'], rows);
  }

  function drawProcesses() {
    const place = body('processes');
    if (run.processes.length) {
      table(place, ['process', 'with the warm-up'], run.processes.map(({ name, told }) => [name, { text: told.join(', '), wrap: true }]));
    }
    for (const exit of run.exits) {
      const at = exit.at_us === null ? '' : ` at ${seconds(exit.at_us)}`;
      element(place, 'p', `${exit.process} ended${at} although nothing asked it to: ${exit.how}`, 'bad');
      if (exit.log_tail.length) element(place, 'pre', exit.log_tail.join('\n'));
    }
    for (const [name, log] of Object.entries(run.logs)) {
      const details = element(place, 'details');
      element(details, 'summary', `log of ${name}${log.is_cut ? ' (its end)' : ''}`);
      details.addEventListener('toggle', () => {
        if (!details.querySelector('pre')) element(details, 'pre', log.text).tabIndex = 0;
      });
    }
    if (!place.childElementCount) hide('processes');
  }

  function drawEvents() {
    if (!run.events.length) return hide('events');
    const details = element(body('events'), 'details');
    element(details, 'summary', `${run.events.length} events${run.events_left_out ? `, and ${run.events_left_out} more in the log of events` : ''}`);
    const rows = run.events.map((event) => [{ text: seconds(event.at_us), className: 'left' }, { text: event.kind, className: 'left' }, { text: event.subject, className: 'left' }, { text: event.detail, wrap: true }]);
    details.addEventListener('toggle', () => {
      if (!details.querySelector('table')) table(details, ['at', 'what', 'of', ''], rows);
    });
  }

  function drawAgain() {
    const place = body('again');
    element(place, 'pre', run.command).tabIndex = 0;
    const details = element(place, 'details');
    element(details, 'summary', 'scenario.toml');
    element(details, 'pre', run.file).tabIndex = 0;
  }

  drawHead();
  drawExpectations();
  drawTopology();
  drawTime();
  drawFaults();
  drawDistributions();
  drawLoads();
  drawProcesses();
  drawEvents();
  drawAgain();
})();
