'use strict';
// Opens the page in frames of two widths, light and dark, and says what is wrong, a line each; then
// which charts there are, and that it is done.
(() => {
  const FRAMES = [1280, 390].flatMap((width) => ['light', 'dark'].map((scheme) => ({ width, scheme })));
  const wrong = [];
  const charts = new Set();

  const channels = (colour) => {
    const found = colour.match(/[\d.]+/g).map(Number);
    // `color(srgb 0.1 0.2 0.3 / 0.5)` counts to 1, and `rgb(1 2 3 / 50%)` to 255.
    return colour.startsWith('color(') ? [...found.slice(0, 3).map((c) => c * 255), found[3] ?? 1] : [...found.slice(0, 3), found[3] ?? 1];
  };
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const contrast = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };

  // What lies under an element: the nearest background that hides what is behind it.
  function ground(view, element) {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(view.getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return null;
  }

  function look({ width, scheme }, frame) {
    const say = (what) => wrong.push(`${width} px, ${scheme}: ${what}`);
    const view = frame.contentWindow;
    const page = view.document;
    if (page.documentElement.scrollWidth > width) say(`scrolls sideways: ${page.documentElement.scrollWidth}`);
    const dark = luminance(channels(view.getComputedStyle(page.body).backgroundColor)) < 0.2;
    if (dark !== (scheme === 'dark')) say('is of the other scheme');
    for (const details of page.querySelectorAll('details')) details.open = true;

    const walker = page.createTreeWalker(page.body, view.NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || ['SCRIPT', 'STYLE', 'NOSCRIPT', 'title'].includes(element.tagName)) continue;
      const style = view.getComputedStyle(element);
      const ink = channels(element instanceof view.SVGElement ? style.fill : style.color);
      const under = ground(view, element instanceof view.SVGElement ? element.ownerSVGElement.parentElement : element);
      if (!under || contrast(ink, under) < 4.5) say(`cannot be read: ${walker.currentNode.data.slice(0, 40)}`);
    }

    for (const chart of page.querySelectorAll('svg')) {
      const name = chart.dataset.chart;
      charts.add(name);
      const marks = [...chart.querySelectorAll('[data-mark]')];
      const drawn = marks.filter((mark) => mark.tagName !== 'path' || mark.getAttribute('d'));
      if (!drawn.length) say(`nothing is drawn in ${name}`);
      if (chart.outerHTML.includes('NaN') || chart.outerHTML.includes('Infinity')) say(`no number in ${name}`);
      if (!chart.getAttribute('aria-label')) say(`${name} says nothing to who cannot see it`);
      const { width: drawnWidth } = chart.getBoundingClientRect();
      if (drawnWidth < 200) say(`${name} is ${drawnWidth} wide`);
    }

    const stack = page.querySelector('.charts');
    const values = () => [...stack.querySelectorAll('.legend b')].map((value) => value.textContent);
    const crosses = () => stack.querySelectorAll('.cross').length;
    const press = (key) => stack.dispatchEvent(new view.KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
    if (stack.tabIndex !== 0) say('cannot be reached by keys');
    press('End');
    if (!crosses() || values().some((value) => value === '')) say('the key End reads nothing');
    const last = stack.querySelector('[aria-live]').textContent;
    press('ArrowLeft');
    if (stack.querySelector('[aria-live]').textContent === last) say('an arrow key moves nothing');
    press('Escape');
    if (crosses() || values().some((value) => value !== '')) say('the key Escape leaves something');
    const { left, top, width: wide } = stack.getBoundingClientRect();
    stack.dispatchEvent(new view.PointerEvent('pointermove', { clientX: left + wide / 2, clientY: top + 50, bubbles: true }));
    if (!crosses() || values().some((value) => value === '')) say('the pointer reads nothing');

    const buttons = [...page.querySelectorAll('.pick button')];
    const title = () => [...stack.querySelectorAll('h3')].map((h) => h.textContent).join();
    const before = title();
    if (buttons.length > 1) {
      buttons[1].click();
      if (title() === before || buttons[1].getAttribute('aria-pressed') !== 'true') say('a button does nothing');
      buttons[0].click();
    }
  }

  let left = FRAMES.length;
  for (const { width, scheme } of FRAMES) {
    const frame = document.createElement('iframe');
    frame.style.cssText = `width:${width}px;height:900px;border:0;color-scheme:${scheme}`;
    frame.addEventListener('load', () => {
      // Charts are drawn again once their width is known.
      setTimeout(() => {
        try {
          look({ width, scheme }, frame);
        } catch (error) {
          wrong.push(`${width} px, ${scheme}: ${error.stack}`);
        }
        left -= 1;
        if (!left) {
          document.getElementById('said').textContent = [...wrong, ...[...charts].map((name) => `chart ${name}`), 'done'].join('\n');
        }
      }, 300);
    });
    frame.src = 'PAGE';
    document.body.append(frame);
  }
})();
