// Elements, scales and axes: all that the five parts need to draw with SVG.

const SVG_NAMES = "http://www.w3.org/2000/svg";

/**
 * An HTML element. Attributes that are `true` are written without a value, and those that are `false` not at all.
 * Children are elements or words.
 */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for an SVG element. */
export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG_NAMES, name), attributes, children);
}

function filled(made, attributes, children) {
  change(made, attributes);
  made.append(...children);
  return made;
}

/** Writes attributes into an element that exists already. */
export function change(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false) {
      made.removeAttribute(name);
    } else {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
}

/** A straight line from the numbers `domain` to the pixels `range`, as a function. */
export function linearScale(domain, range) {
  const slope = (range[1] - range[0]) / (domain[1] - domain[0]);
  return (value) => range[0] + slope * (value - domain[0]);
}

/** The way back: from pixels to numbers. */
export function inverseScale(domain, range) {
  return linearScale(range, domain);
}

/** Round numbers from `low` to `high`, about `count` of them, in steps of 1, 2 or 5 times a power of ten. */
export function roundTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const multiple = [1, 2, 5, 10].find((candidate) => candidate * power >= rough);
  const step = multiple * power;
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1) {
    ticks.push(Number((index * step).toPrecision(12)));
  }
  return ticks;
}

/** The powers of ten from `low` to `high`. */
export function decadeTicks(low, high) {
  const ticks = [];
  for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.log10(high) + 1e-9; power += 1) {
    ticks.push(10 ** power);
  }
  return ticks;
}

/**
 * An empty drawing as wide as its place on the page, with room for two axes.
 * `left`, `right`, `top` and `bottom` are the pixels of the edges of the field.
 */
export function drawingIn(place, { height, label, margins = {} }) {
  const width = Math.max(280, Math.floor(place.clientWidth));
  const { left = 52, right = 12, top = 12, bottom = 44 } = margins;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  return { svg, width, height, left, right: width - right, top, bottom: height - bottom };
}

/** The horizontal axis below a field: a line, a number at each tick, and what the numbers are. */
export function axisBelow(drawing, scale, ticks, words, text = String) {
  const group = shape("g", { class: "axis" });
  group.append(shape("line", { x1: drawing.left, x2: drawing.right, y1: drawing.bottom, y2: drawing.bottom }));
  for (const tick of ticks) {
    group.append(shape("line", { x1: scale(tick), x2: scale(tick), y1: drawing.bottom, y2: drawing.bottom + 4 }));
    group.append(shape("text", { x: scale(tick), y: drawing.bottom + 17, "text-anchor": "middle" }, text(tick)));
  }
  const middle = (drawing.left + drawing.right) / 2;
  group.append(shape("text", { x: middle, y: drawing.bottom + 36, "text-anchor": "middle" }, words));
  drawing.svg.append(group);
}

/** The vertical axis to the left of a field; its words stand above it, so that they are read without turning. */
export function axisLeft(drawing, scale, ticks, words, text = String) {
  const group = shape("g", { class: "axis" });
  for (const tick of ticks) {
    const y = scale(tick);
    group.append(shape("line", { class: "grid", x1: drawing.left, x2: drawing.right, y1: y, y2: y }));
    group.append(shape("text", { x: drawing.left - 6, y: y + 4, "text-anchor": "end" }, text(tick)));
  }
  group.append(shape("text", { x: 2, y: drawing.top - 8 }, words));
  drawing.svg.append(group);
}

/** A line through points [x, y] in pixels, in one of the page's colours. */
export function lineThrough(points, attributes) {
  const path = points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
  return shape("path", { d: path, fill: "none", ...attributes });
}

/** Calls `draw` now, and again each time the place gets another width. */
export function drawAtEachWidth(place, draw) {
  let drawnWidth = place.clientWidth;
  draw();
  const observer = new ResizeObserver(() => {
    if (place.clientWidth !== drawnWidth) {
      drawnWidth = place.clientWidth;
      draw();
    }
  });
  observer.observe(place);
}
