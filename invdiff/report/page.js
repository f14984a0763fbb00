
// The report of invdiff: one module, no dependencies, no network.
//
// From pixels to parts of the page: drawing and reading of pictures; Stage, a picture with layers, a divider and a region,
// which knows nothing of samples; then the parts of an item; at the end the page that chooses between items.
// All text of the data reaches the page as text nodes and attributes, never as markup.

// ---------------------------------------------------------------- elements

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; functions among the attributes are listeners, false and null ones are left out. */
function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const digits = (value, count = 3) => Number(value.toPrecision(count)).toString();
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- pictures

/** Decoded images by their data URIs; emptied when another item is shown. */
class Shelf {
  #images = new Map();

  image(source) {
    if (!this.#images.has(source)) {
      const image = new Image();
      image.src = source;
      this.#images.set(source, image.decode().then(() => image));
    }
    return this.#images.get(source);
  }
}

/** Draw an image over the whole canvas, or inside it if the proportions differ. */
function drawn(canvas, image) {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width, canvas.height];
  context.clearRect(0, 0, width, height);
  const ratio = image.width / image.height / (width / height);
  const alike = Math.abs(ratio - 1) < 0.03;
  const across = alike ? width : Math.min(width, height * (image.width / image.height));
  const down = alike ? height : across * (image.height / image.width);
  context.drawImage(image, (width - across) / 2, (height - down) / 2, across, down);
}

/** Return the pixels of a part of an image, in its own pixels: RGBA. */
function pixelsOf(image, left = 0, top = 0, width = image.width, height = image.height) {
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Return the mean of an image over a box given in shares of its sides; channel 0, 1, 2, or null for their mean. */
function meanOver(image, box, channel) {
  const left = clamp(Math.round(box.left * image.width), 0, image.width - 1);
  const top = clamp(Math.round(box.top * image.height), 0, image.height - 1);
  const width = clamp(Math.round(box.width * image.width), 1, image.width - left);
  const height = clamp(Math.round(box.height * image.height), 1, image.height - top);
  const { data } = pixelsOf(image, left, top, width, height);
  let sum = 0;
  for (let place = 0; place < data.length; place += 4) {
    sum += channel === null ? (data[place] + data[place + 1] + data[place + 2]) / 3 : data[place + channel];
  }
  return sum / (data.length / 4) / 255;
}

/** Return the mean and the standard deviation of numbers, the latter null for a single one. */
function statistics(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null };
}

// ---------------------------------------------------------------- maps

/** Return 256 colors of a scale as an array of RGB bytes. */
function scaleOf(hexadecimal) {
  return Uint8Array.from({ length: hexadecimal.length / 2 }, (_, k) => parseInt(hexadecimal.slice(2 * k, 2 * k + 2), 16));
}

/** Draw a gray image in the colors of a scale. */
function drawnInColors(canvas, image, scale) {
  canvas.width = image.width;
  canvas.height = image.height;
  const pixels = pixelsOf(image);
  for (let place = 0; place < pixels.data.length; place += 4) {
    const color = 3 * pixels.data[place];
    for (let k = 0; k < 3; k += 1) pixels.data[place + k] = scale[color + k];
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function colorBar(map, scale) {
  const canvas = h("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const pixels = new ImageData(256, 1);
  for (let k = 0; k < 256; k += 1) pixels.data.set([scale[3 * k], scale[3 * k + 1], scale[3 * k + 2], 255], 4 * k);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const ticks = [0, 1, 2, 3, 4].map((k) => map.low + ((map.high - map.low) * k) / 4);
  const beyond = (k) => (k === 4 && map.above ? "≥ " : k === 0 && map.above && map.low < 0 ? "≤ " : "");
  return h(
    "div",
    { class: "bar", role: "group", "aria-label": `Color bar from ${digits(map.low)} to ${digits(map.high)}` },
    canvas,
    h("ol", {}, ticks.map((value, k) => h("li", {}, `${beyond(k)}${digits(value, 2)}`))),
  );
}

function mapFigure(map, item, shelf, scale) {
  const alt = `${map.label} of ${item.name}: ${Object.entries(map.numbers).map(([name, value]) => `${name} ${value}`).join(", ")}`;
  const canvas = h("canvas", { class: "map", role: "img", "aria-label": alt });
  const reading = h("output", { class: "soft" }, Object.entries(map.numbers).map(([name, value]) => `${name} ${value}`).join(" · "));
  const usual = reading.textContent;
  let pixels = null;
  shelf.image(map.source).then((image) => {
    drawnInColors(canvas, image, scale);
    pixels = pixelsOf(image);
  });
  const read = (event) => {
    if (pixels === null) return;
    const place = placeIn(canvas, event, true);
    if (place === null) return;
    const column = clamp(Math.floor(place.x * pixels.width), 0, pixels.width - 1);
    const row = clamp(Math.floor(place.y * pixels.height), 0, pixels.height - 1);
    const value = map.low + ((map.high - map.low) * pixels.data[4 * (row * pixels.width + column)]) / 255;
    reading.textContent = `${digits(value, 2)} at ${Math.floor(place.x * item.size[0])}, ${Math.floor(place.y * item.size[1])}`;
  };
  canvas.addEventListener("pointermove", read);
  canvas.addEventListener("pointerdown", read);
  canvas.addEventListener("pointerleave", () => { reading.textContent = usual; });
  return h("figure", {}, h("h3", {}, map.label), canvas, colorBar(map, scale), h("figcaption", {}, map.caption, h("br"), reading));
}

/** Return where an event is in an element, in shares of its sides; with object-fit: contain, in shares of what is shown. */
function placeIn(element, event, contained = false) {
  const frame = element.getBoundingClientRect();
  let { left, top, width, height } = frame;
  if (contained) {
    const times = Math.min(width / element.width, height / element.height);
    left += (width - element.width * times) / 2;
    top += (height - element.height * times) / 2;
    [width, height] = [element.width * times, element.height * times];
  }
  const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
  return contained && (x < 0 || x >= 1 || y < 0 || y >= 1) ? null : { x: clamp(x, 0, 1), y: clamp(y, 0, 1) };
}

// ---------------------------------------------------------------- the stage

/**
 * A picture with two layers, a divider between them, and a region. Events: "split" when the divider moves, "region" when
 * the region changes; `split` is in percent, `region` in shares of the sides, or null.
 */
class Stage extends EventTarget {
  static CLICKED = 0.1; // side of the region around a click, as a share of the shorter side

  constructor(width, height) {
    super();
    [this.width, this.height, this.split, this.region, this.drawing] = [width, height, 50, null, false];
    this.left = h("canvas", { class: "left", width, height, role: "img" });
    this.right = h("canvas", { class: "right", width, height, role: "img" });
    this.divider = h("div", { class: "divider", "aria-hidden": "true" });
    this.box = h("div", { class: "box", hidden: true });
    this.tags = [h("span", { class: "tag l", "aria-hidden": "true" }), h("span", { class: "tag r", "aria-hidden": "true" })];
    this.element = h("div", { class: "stage" }, this.right, this.left, this.box, this.tags, this.divider);
    this.element.style.aspectRatio = `${width} / ${height}`;
    this.element.style.width = `min(100%, calc(58vh * ${width / height}))`;
    if (Math.max(width, height) < 100) this.element.classList.add("sharp");
    this.#listen();
    this.moveDivider(50);
  }

  /** Show an image in a layer, "left" or "right". */
  show(side, image, label, description) {
    drawn(this[side], image);
    this[side].setAttribute("aria-label", description);
    this.tags[side === "left" ? 0 : 1].textContent = label;
  }

  moveDivider(percent) {
    this.split = clamp(percent, 0, 100);
    this.element.style.setProperty("--split", `${this.split}%`);
    this.dispatchEvent(new Event("split"));
  }

  setRegion(region) {
    this.region = region;
    this.box.hidden = region === null;
    if (region !== null) {
      for (const side of ["left", "top", "width", "height"]) this.box.style[side] = `${100 * region[side]}%`;
    }
    this.dispatchEvent(new Event("region"));
  }

  /** Whether a finger draws a region; otherwise it moves the divider. */
  setDrawing(on) {
    this.drawing = on;
    this.element.classList.toggle("drawing", on);
  }

  #listen() {
    let start = null;
    let moves = false;
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const onDivider = this.divider.contains(event.target);
      start = { ...placeIn(this.element, event), x0: event.clientX, y0: event.clientY, moved: false };
      moves = onDivider || (event.pointerType !== "mouse" && !this.drawing);
      if (onDivider || event.pointerType === "mouse" || this.drawing) {
        this.element.setPointerCapture(event.pointerId);
        event.preventDefault();
      }
    });
    this.element.addEventListener("pointermove", (event) => {
      if (start === null) return;
      start.moved ||= Math.hypot(event.clientX - start.x0, event.clientY - start.y0) > 5;
      if (!start.moved) return;
      const place = placeIn(this.element, event);
      if (moves) this.moveDivider(100 * place.x);
      else this.setRegion(between(start, place, this.width, this.height));
    });
    this.element.addEventListener("pointerup", (event) => {
      if (start !== null && !start.moved && !this.divider.contains(event.target)) this.setRegion(this.#around(start));
      start = null;
    });
    this.element.addEventListener("pointercancel", () => { start = null; });
  }

  #around(place) {
    const side = Stage.CLICKED * Math.min(this.width, this.height);
    const [width, height] = [Math.max(side, 1) / this.width, Math.max(side, 1) / this.height];
    return { left: clamp(place.x - width / 2, 0, 1 - width), top: clamp(place.y - height / 2, 0, 1 - height), width, height };
  }
}

/** Return the region between two places, at least a pixel wide and high. */
function between(one, two, width, height) {
  const [left, top] = [Math.min(one.x, two.x), Math.min(one.y, two.y)];
  return {
    left: Math.min(left, 1 - 1 / width),
    top: Math.min(top, 1 - 1 / height),
    width: Math.max(Math.abs(one.x - two.x), 1 / width),
    height: Math.max(Math.abs(one.y - two.y), 1 / height),
  };
}

// ---------------------------------------------------------------- comparing and flipping

class Comparison {
  static PACE = 800; // milliseconds for each sample when they play

  constructor(item, shelf) {
    [this.item, this.shelf, this.timer] = [item, shelf, null];
    this.samples = item.pictures.filter((picture) => picture.sample !== undefined);
    const shape = item.pictures.find((picture) => picture.id === "mean") ?? this.samples[0] ?? item.pictures[0];
    this.stageReady = shelf.image(shape.source).then((image) => this.#build(image.width, image.height));
    this.element = h("section", { class: "card", "aria-label": "Compare" });
  }

  #picture(id) {
    return this.item.pictures.find((picture) => picture.id === id);
  }

  #build(width, height) {
    const has = (...ids) => ids.find((id) => this.#picture(id) !== undefined);
    const first = this.samples[0]?.id;
    this.right = has("mean") ?? first ?? this.item.pictures[0].id;
    this.leftId = has("measurement", "truth") ?? (first !== this.right ? first : undefined) ?? this.right;
    this.stage = new Stage(width, height);
    this.range = h("input", {
      type: "range", min: 0, max: 100, step: 1, value: 50, "aria-label": "Divider between the two pictures, in percent from the left",
      input: () => this.stage.moveDivider(Number(this.range.value)),
    });
    this.stage.addEventListener("split", () => { this.range.value = this.stage.split; });
    this.selects = {
      left: this.#select("Left picture", (id) => this.show("left", id)),
      right: this.#select("Right picture", (id) => this.show("right", id)),
    };
    this.status = h("output", { class: "soft", "aria-live": "polite" });
    const count = this.samples.length;
    this.playing = h("button", { type: "button", "aria-pressed": "false", disabled: count < 2, click: () => this.play(this.timer === null) }, "Play");
    const step = (by, label) => h("button", { type: "button", "aria-label": label, disabled: count < 2, click: () => { this.play(false); this.flip(by); } }, by < 0 ? "◀" : "▶");
    this.thumbs = new Map(this.item.pictures.map((picture) => [picture.id, this.#thumb(picture)]));
    const strip = h("div", { class: "strip", role: "group", "aria-label": "Show on the right" }, [...this.thumbs.values()]);
    this.element.append(
      this.stage.element,
      h(
        "div",
        { class: "controls" },
        this.range,
        h("div", { class: "selects" }, h("label", {}, "Left", this.selects.left), h("label", {}, "Right", this.selects.right)),
        count > 0 && h("div", { class: "row" }, step(-1, "Previous sample"), this.playing, step(1, "Next sample"), this.status),
        strip,
      ),
    );
    return Promise.all([this.show("left", this.leftId), this.show("right", this.right)]);
  }

  #select(name, changed) {
    const options = this.item.pictures.map((picture) => h("option", { value: picture.id }, picture.label));
    const select = h("select", { "aria-label": name, change: () => { this.play(false); changed(select.value); } }, options);
    return select;
  }

  #thumb(picture) {
    const image = h("img", { src: picture.source, alt: "", decoding: "async" });
    return h("button", { type: "button", "aria-pressed": "false", title: picture.label, click: () => { this.play(false); this.show("right", picture.id); } }, image, h("span", {}, picture.sample === undefined ? picture.label : `Sample ${picture.sample}${picture.best ? " (best)" : ""}`));
  }

  async show(side, id) {
    const picture = this.#picture(id);
    this[side === "left" ? "leftId" : "right"] = id;
    this.selects[side].value = id;
    const image = await this.shelf.image(picture.source);
    if (this[side === "left" ? "leftId" : "right"] !== id) return; // another one was chosen meanwhile
    this.stage.show(side, image, picture.label, `${picture.label} of ${this.item.name}`);
    if (side === "right") {
      for (const [key, thumb] of this.thumbs) thumb.setAttribute("aria-pressed", String(key === id));
      const place = this.samples.indexOf(picture);
      this.status.textContent = place < 0 ? plural(this.samples.length, "sample") : `${picture.label} (${place + 1} of ${this.samples.length})`;
      this.changed?.(picture);
    }
  }

  /** Show the next or an earlier sample on the right. */
  flip(by) {
    const count = this.samples.length;
    if (count === 0 || this.selects === undefined) return;
    const place = this.samples.findIndex((picture) => picture.id === this.right);
    const next = place < 0 ? (by > 0 ? 0 : count - 1) : (place + by + count) % count;
    this.show("right", this.samples[next].id);
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.flip(1), Comparison.PACE) : null;
    if (on) this.flip(1);
    if (this.playing === undefined) return;
    this.status.setAttribute("aria-live", on ? "off" : "polite");
    this.playing.setAttribute("aria-pressed", String(on));
    this.playing.textContent = on ? "Pause" : "Play";
  }
}

// ---------------------------------------------------------------- how a region varies

class Region {
  static DOTS = 40; // samples that are shown one by one

  constructor(item, shelf, comparison) {
    [this.item, this.shelf, this.comparison, this.channel, this.turn] = [item, shelf, comparison, null, 0];
    this.plot = h("div", {});
    this.words = h("p", { "aria-live": "polite" }, "Click the picture, or drag over it, to choose a region.");
    this.values = h("details", { hidden: true });
    this.source = h("p", { class: "soft" });
    const [width, height] = item.size;
    const number = (name, most) => h("input", { type: "number", min: name === "width" || name === "height" ? 1 : 0, max: most, step: 1, change: () => this.#typed() });
    this.inputs = { left: number("left", width - 1), top: number("top", height - 1), width: number("width", width), height: number("height", height) };
    this.draw = h("button", { type: "button", "aria-pressed": "false", click: () => this.#draws() }, "Draw with a finger");
    const channels = h("select", { change: () => { this.channel = channels.value === "" ? null : Number(channels.value); this.update(); } },
      [["", "all channels"], ["0", "red"], ["1", "green"], ["2", "blue"]].map(([value, label]) => h("option", { value }, label)));
    const std = item.maps.find((map) => map.id === "std");
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "region-title" },
      h("h2", { id: "region-title" }, "How a region varies"),
      this.plot,
      this.words,
      this.values,
      h("div", { class: "controls" },
        h("div", { class: "fields" }, Object.entries(this.inputs).map(([name, input]) => h("label", {}, `${name} [px]`, input))),
        h("div", { class: "row" },
          std !== undefined && h("button", { type: "button", click: () => this.mostUncertain(std) }, "Where they differ most"),
          matchMedia("(pointer: coarse)").matches && this.draw,
          !item.gray && h("label", {}, h("span", { class: "hidden" }, "Channel"), channels)),
      ),
      this.source,
    );
    comparison.stageReady.then(() => {
      const times = item.size[0] / comparison.stage.width;
      const reduced = times > 1.01 ? ` and reduced to 1/${digits(times, 2)} of their size` : "";
      this.source.textContent = `Means over the region, pixels spanning 0..1, from the pictures of this page, which are compressed${reduced}.`;
      comparison.stage.addEventListener("region", () => this.update());
      comparison.changed = () => this.#mark();
      if (std !== undefined) this.mostUncertain(std);
    });
  }

  #draws() {
    const on = this.draw.getAttribute("aria-pressed") !== "true";
    this.draw.setAttribute("aria-pressed", String(on));
    this.comparison.stage.setDrawing(on);
  }

  #typed() {
    const [width, height] = this.item.size;
    const value = (name) => Number(this.inputs[name].value) || 0;
    const left = clamp(value("left"), 0, width - 1);
    const top = clamp(value("top"), 0, height - 1);
    this.comparison.stage.setRegion({
      left: left / width,
      top: top / height,
      width: clamp(value("width"), 1, width - left) / width,
      height: clamp(value("height"), 1, height - top) / height,
    });
  }

  /** Choose the square where the map of the standard deviation has its largest mean. */
  async mostUncertain(std) {
    const image = await this.shelf.image(std.source);
    const { data, width, height } = pixelsOf(image);
    const side = Math.max(1, Math.round(Stage.CLICKED * Math.min(width, height)));
    const sums = new Float64Array((width + 1) * (height + 1)); // of all pixels above and to the left
    for (let row = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1) {
        const place = (row + 1) * (width + 1) + column + 1;
        sums[place] = data[4 * (row * width + column)] + sums[place - 1] + sums[place - width - 1] - sums[place - width - 2];
      }
    }
    let best = { sum: -1, row: 0, column: 0 };
    for (let row = 0; row + side <= height; row += 1) {
      for (let column = 0; column + side <= width; column += 1) {
        const [above, below] = [row * (width + 1) + column, (row + side) * (width + 1) + column];
        const sum = sums[below + side] - sums[below] - sums[above + side] + sums[above];
        if (sum > best.sum) best = { sum, row, column };
      }
    }
    this.comparison.stage.setRegion({ left: best.column / width, top: best.row / height, width: side / width, height: side / height });
  }

  async update() {
    const region = this.comparison.stage.region;
    if (region === null) return;
    const turn = ++this.turn;
    const [width, height] = this.item.size;
    const pixels = { left: region.left * width, top: region.top * height, width: region.width * width, height: region.height * height };
    for (const [name, input] of Object.entries(this.inputs)) input.value = Math.max(Math.round(pixels[name]), Number(input.min));
    const over = async (picture) => meanOver(await this.shelf.image(picture.source), region, this.channel);
    const samples = this.comparison.samples;
    const values = await Promise.all(samples.map(over));
    const truth = this.item.pictures.find((one) => one.id === "truth" && one.size[0] === width && one.size[1] === height);
    const marks = truth === undefined ? [] : [{ label: "truth", value: await over(truth) }];
    if (turn !== this.turn) return; // the region has changed meanwhile
    this.#show(samples, values, marks);
  }

  #show(samples, values, marks) {
    if (values.length === 0) {
      this.words.textContent = "The samples were not kept: how this region varies cannot be shown.";
      return;
    }
    const { mean, deviation } = statistics(values);
    const known = marks.map(({ label, value }) => `${label} ${value.toFixed(3)}`);
    this.words.textContent =
      (deviation === null
        ? `One sample: ${mean.toFixed(3)}. Two or more show how much it varies`
        : `Mean ${mean.toFixed(3)}, standard deviation ${digits(deviation, 2)} ± ${Math.round(100 / Math.sqrt(2 * (values.length - 1)))} % ` +
          `over ${plural(values.length, "sample")}`) +
      `${known.length > 0 ? `; ${known.join(", ")}` : ""}.`;
    this.plot.replaceChildren(distribution(samples, values, marks, mean, deviation, (id) => this.comparison.show("right", id)));
    this.values.hidden = false;
    this.values.replaceChildren(
      h("summary", { class: "soft" }, "Values"),
      table({ heads: ["sample", "mean of the region"], rows: samples.map((one, k) => [String(one.sample), values[k].toFixed(4)]) }),
    );
    this.#mark();
  }

  #mark() {
    for (const dot of this.plot.querySelectorAll("[data-id]")) dot.classList.toggle("now", dot.dataset.id === this.comparison.right);
  }
}

/** Return round numbers in an interval, at most `count` and one: steps of 1, 2 or 5 times a power of ten. */
function roundNumbers(low, high, count) {
  const least = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= least);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, k) => (first + k) * step);
}

/** Return a plot of numbers: a dot for each, or the bars of a histogram; with their mean and standard deviation. */
function distribution(samples, values, marks, mean, deviation, choose) {
  const [width, base, radius] = [360, 104, 6];
  const all = [...values, ...marks.map((mark) => mark.value)];
  const room = Math.max((Math.max(...all) - Math.min(...all)) * 0.12, 0.004);
  const [low, high] = [Math.min(...all) - room, Math.max(...all) + room];
  const at = (value) => 12 + ((value - low) / (high - low)) * (width - 24);
  const title = deviation === null ? "One value" : `${values.length} values: mean ${mean.toFixed(3)}, standard deviation ${digits(deviation, 2)}`;
  const plot = s("svg", { class: "plot", viewBox: `0 0 ${width} 140`, role: "img", "aria-label": title });
  if (deviation !== null) {
    const [from, to] = [at(mean - deviation), at(mean + deviation)].map((x) => clamp(x, 0, width));
    plot.append(s("rect", { class: "spread", x: from, y: 14, width: Math.max(to - from, 1), height: base - 14 }));
  }
  plot.append(s("line", { class: "axis", x1: 6, x2: width - 6, y1: base, y2: base }));
  for (const value of roundNumbers(low, high, 5)) {
    plot.append(s("line", { class: "axis", x1: at(value), x2: at(value), y1: base, y2: base + 4 }));
    plot.append(s("text", { x: at(value), y: base + 17, "text-anchor": "middle" }, digits(value, 4)));
  }
  if (values.length <= Region.DOTS) {
    const placed = [];
    values.map((value, k) => [value, k]).sort((one, two) => one[0] - two[0]).forEach(([value, k]) => {
      const x = at(value);
      let level = 0;
      while (placed.some((dot) => dot.level === level && Math.abs(dot.x - x) < 2 * radius)) level += 1;
      placed.push({ x, level });
      const y = base - radius - 2 - level * 2 * radius;
      const dot = s("circle", { class: "dot", cx: x, cy: Math.max(y, 16), r: radius, "data-id": samples[k].id, click: () => choose(samples[k].id) });
      dot.append(s("title", {}, `${samples[k].label}: ${value.toFixed(4)}`));
      plot.append(dot);
    });
  } else {
    const bins = Math.min(24, Math.ceil(Math.sqrt(values.length)) + 4);
    const counts = new Array(bins).fill(0);
    for (const value of values) counts[clamp(Math.floor(((value - low) / (high - low)) * bins), 0, bins - 1)] += 1;
    const step = (width - 24) / bins;
    counts.forEach((count, k) => {
      const tall = (count / Math.max(...counts)) * (base - 22);
      plot.append(s("rect", { class: "rectangle", x: 12 + k * step + 1, y: base - tall, width: step - 2, height: tall }));
    });
  }
  plot.append(s("line", { class: "mean", x1: at(mean), x2: at(mean), y1: 14, y2: base }));
  marks.forEach(({ label, value }, k) => {
    plot.append(s("line", { class: "mark", x1: at(value), x2: at(value), y1: 14, y2: base }));
    const anchor = at(value) > width - 60 ? "end" : at(value) < 60 ? "start" : "middle";
    plot.append(s("text", { class: "warm", x: at(value), y: k % 2 === 0 ? 10 : base + 32, "text-anchor": anchor }, label));
  });
  return plot;
}

// ---------------------------------------------------------------- principal directions

function directionsCard(item, shelf) {
  const samples = item.pictures.filter((picture) => picture.sample !== undefined);
  const start = item.pictures.find((picture) => picture.id === "mean") ?? samples[0];
  const canvas = h("canvas", { role: "img" });
  const range = h("input", { type: "range", min: -3, max: 3, step: 0.1, value: 0, "aria-label": "Standard deviations along the direction" });
  const words = h("output", { "aria-live": "polite" });
  let [chosen, origin, step] = [0, null, null];
  const paint = () => {
    const t = Number(range.value);
    words.textContent = `t = ${t.toFixed(1)}`;
    range.setAttribute("aria-valuetext", `${t.toFixed(1)} standard deviations`);
    if (origin === null || step === null) return;
    const pixels = new ImageData(origin.width, origin.height);
    const { low, high } = item.directions[chosen];
    for (let place = 0; place < pixels.data.length; place += 4) {
      for (let k = place; k < place + 3; k += 1) {
        pixels.data[k] = origin.data[k] + t * 255 * (low + ((high - low) * step.data[k]) / 255);
      }
      pixels.data[place + 3] = 255;
    }
    [canvas.width, canvas.height] = [origin.width, origin.height];
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.setAttribute("aria-label", `Mean of ${item.name} plus ${t.toFixed(1)} standard deviations along direction ${chosen + 1}`);
  };
  const choose = async (number) => {
    chosen = number;
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === number)));
    const [one, two] = await Promise.all([shelf.image(start.source), shelf.image(item.directions[number].source)]);
    if (chosen !== number) return;
    [origin, step] = [pixelsOf(one), pixelsOf(two)];
    paint();
  };
  const buttons = item.directions.map((direction, k) => {
    const share = h("span", { class: "share" });
    share.style.width = `${100 * direction.share}%`;
    return h("button", { type: "button", "aria-pressed": "false", click: () => choose(k) }, `Direction ${k + 1}: ${Math.round(100 * direction.share)} %`, share);
  });
  range.addEventListener("input", paint);
  choose(0);
  const others = samples.length > 2 ? ` ${samples.length} samples differ in ${samples.length - 1} directions at most; more samples show more.` : "";
  return h(
    "section",
    { class: "card", id: "directions", "aria-labelledby": "directions-title" },
    h("h2", { id: "directions-title" }, "Directions in which the samples differ"),
    h(
      "div",
      { class: "direction" },
      h("figure", {}, canvas),
      h(
        "div",
        { class: "controls" },
        h("p", { class: "soft" }, `Mean plus t standard deviations along a principal direction of the samples; its share of their variance is in percent.${others}`),
        h("div", { class: "row", role: "group", "aria-label": "Direction" }, buttons),
        h("label", {}, "t from -3 to 3", range),
        h("div", { class: "row" }, h("button", { type: "button", click: () => { range.value = 0; paint(); } }, "Back to the mean"), words),
      ),
    ),
  );
}

// ---------------------------------------------------------------- text

function table({ heads, rows, total }, chooser = null) {
  const cell = (value, place) => h("td", {}, chooser !== null && place === 0 ? chooser(value) : value);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row, k) => h("tr", { class: total && k === rows.length - 1 ? "total" : null }, row.map(cell)))),
    ),
  );
}

function notesCard(item) {
  const sentences = [...item.notes, ...item.missing];
  if (sentences.length === 0) return null;
  return h("section", { class: "card note", "aria-labelledby": "notes-title" }, h("h2", { id: "notes-title" }, "Notes"), h("ul", {}, sentences.map((note) => h("li", {}, note))));
}

function figuresCard(item) {
  if (item.tables.length === 0) return null;
  const parts = item.tables.map((one) => h("div", {}, h("h3", {}, one.title), table(one), one.note && h("p", { class: "soft" }, one.note)));
  return h("section", { class: "card", "aria-labelledby": "figures-title" }, h("h2", { id: "figures-title" }, "Figures"), h("div", { class: "figures" }, parts));
}

function settingsCard(item) {
  const groups = item.facts.map(({ title, pairs }) =>
    h("div", {}, h("h3", {}, title), h("dl", {}, pairs.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))));
  return h(
    "section",
    { class: "card", "aria-labelledby": "settings-title" },
    h("h2", { id: "settings-title" }, "Settings"),
    h("div", { class: "facts" }, groups),
    h("details", {}, h("summary", {}, "Record of the run (run.json)"), h("pre", { tabindex: "0" }, item.record)),
  );
}

function mapsCard(item, shelf, scales) {
  if (item.maps.length + item.figures.length === 0) return null;
  const drawnBefore = ({ label, source, caption }) =>
    h("figure", {}, h("h3", {}, label), h("img", { class: "map", src: source, alt: `${label} of ${item.name}` }), h("figcaption", {}, caption));
  const figures = [...item.figures.map(drawnBefore), ...item.maps.map((map) => mapFigure(map, item, shelf, scales[map.colors]))];
  return h("section", { class: "card", "aria-labelledby": "maps-title" }, h("h2", { id: "maps-title" }, "Uncertainty and residuals (pixels spanning 0..1)"), h("div", { class: "maps" }, figures));
}

// ---------------------------------------------------------------- the page

class Page {
  static SEARCHED = 8; // items from which the list has a search field
  static THUMBS = 60; // items up to which it has pictures

  constructor(data) {
    this.data = data;
    this.scales = Object.fromEntries(Object.entries(data.colors).map(([name, text]) => [name, scaleOf(text)]));
    this.main = document.getElementById("main");
    this.#theme(document.getElementById("theme"));
    if (data.items.length + data.leftOut.length > 1) this.#list(document.getElementById("list"));
    this.#keys();
    document.getElementById("foot").append(
      h("p", {}, `Made by invdiff ${data.version} report. Left and right arrow keys flip through the samples. Nothing is loaded from a network.`),
    );
    window.addEventListener("hashchange", () => this.#fromAddress());
    if (!this.#fromAddress()) this.choose(0);
  }

  #fromAddress() {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch {
      return false; // not one of ours
    }
    const place = this.data.items.findIndex((item) => item.name === name);
    if (place >= 0 && place !== this.chosen) this.choose(place);
    return place >= 0;
  }

  #theme(button) {
    const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    const say = () => {
      button.textContent = dark() ? "Light" : "Dark";
      button.setAttribute("aria-label", dark() ? "Use light colors" : "Use dark colors");
    };
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = dark() ? "light" : "dark";
      say();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
    say();
  }

  #list(nav) {
    const { items, leftOut } = this.data;
    document.getElementById("layout").classList.add("many");
    this.entries = items.map((item, k) => {
      const picture = item.pictures.find((one) => one.id === "mean") ?? item.pictures[0];
      const image = items.length <= Page.THUMBS && h("img", { src: picture.source, alt: "", loading: "lazy", decoding: "async" });
      const words = h("span", { class: "name" }, item.name, h("small", {}, item.problem));
      return h("li", {}, h("button", { type: "button", click: () => { this.choose(k); this.#shut(); } }, image, words));
    });
    const found = h("p", { class: "soft", "aria-live": "polite" });
    const search = h("input", {
      type: "search", placeholder: "Search", "aria-label": "Search pictures by name",
      input: () => {
        const text = search.value.toLowerCase();
        this.entries.forEach((entry, k) => { entry.hidden = !items[k].name.toLowerCase().includes(text); });
        found.textContent = text === "" ? "" : `${this.entries.filter((entry) => !entry.hidden).length} found`;
      },
    });
    this.panel = h(
      "details",
      { open: matchMedia("(min-width: 900px)").matches },
      h("summary", {}, `${plural(items.length, "picture")}${leftOut.length > 0 ? `, ${leftOut.length} left out` : ""}`),
      items.length > Page.SEARCHED && [search, found],
      h("ul", {}, this.entries),
    );
    nav.append(this.panel);
  }

  #shut() {
    if (!matchMedia("(min-width: 900px)").matches) this.panel.open = false;
  }

  #keys() {
    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (event.target.closest("input, select, textarea, .scroll, pre")) return;
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by === undefined || this.comparison === undefined) return;
      event.preventDefault();
      this.comparison.play(false);
      this.comparison.flip(by);
    });
  }

  choose(number) {
    const { items } = this.data;
    this.comparison?.play(false);
    this.chosen = number;
    this.entries?.forEach((entry, k) => {
      if (k === number) entry.firstChild.setAttribute("aria-current", "true");
      else entry.firstChild.removeAttribute("aria-current");
    });
    const item = items[number];
    const shelf = new Shelf();
    this.comparison = new Comparison(item, shelf);
    const region = new Region(item, shelf, this.comparison);
    if (items.length > 1) history.replaceState(null, "", `#${encodeURIComponent(item.name)}`);
    this.main.replaceChildren(
      ...[
        this.#head(item, number),
        h("div", { class: "look" }, this.comparison.element, h("div", { class: "side" }, [region.element, notesCard(item)].filter(Boolean))),
        mapsCard(item, shelf, this.scales),
        item.directions.length > 0 && directionsCard(item, shelf),
        figuresCard(item),
        settingsCard(item),
        this.#overview(),
      ].filter(Boolean),
    );
  }

  #head(item, number) {
    const count = this.data.items.length;
    const step = (by, label, sign) => h("button", { type: "button", "aria-label": label, click: () => this.choose((number + by + count) % count) }, sign);
    const samples = item.pictures.filter((picture) => picture.sample !== undefined).length;
    return h(
      "div",
      { class: "head" },
      h("div", {}, h("h1", {}, item.name), h("p", { class: "soft" }, `${item.problem} · ${item.size[0]} × ${item.size[1]} pixels · ${samples === 0 ? "samples not kept" : plural(samples, "sample")}`)),
      count > 1 && h("div", { class: "row" }, step(-1, "Previous picture", "↑"), h("span", { class: "soft" }, `${number + 1} of ${count}`), step(1, "Next picture", "↓")),
    );
  }

  /** What is about all items: figures, and those that are left out. */
  #overview() {
    const { items, leftOut, tables } = this.data;
    const parts = [];
    if (items.length > 1) {
      const link = (name) => h("button", { type: "button", click: () => { this.choose(items.findIndex((item) => item.name === name)); this.main.focus(); window.scrollTo(0, 0); } }, name);
      const heads = ["picture", "problem", "samples", ...Object.keys(items.reduce((all, item) => ({ ...all, ...item.summary }), {}))];
      const samples = (item) => item.pictures.filter((one) => one.sample !== undefined).length || "not kept";
      const rows = items.map((item) => [item.name, item.problem, String(samples(item)), ...heads.slice(3).map((head) => item.summary[head] ?? "")]);
      parts.push(h("h2", {}, "All pictures"), table({ heads, rows }, link));
    }
    for (const one of tables) parts.push(h("h2", {}, one.title), table(one));
    if (leftOut.length > 0) {
      parts.push(h("h2", {}, "Without a result here"), h("ul", { class: "plain" }, leftOut.map(({ name, error }) => h("li", {}, `${name}: ${error}`))));
    }
    return parts.length > 0 && h("section", { class: "card", "aria-label": "All pictures" }, parts);
  }
}

new Page(JSON.parse(document.getElementById("data").textContent));
