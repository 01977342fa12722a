// The drawing: time axis, faults, lanes with the sessions of each node, and the overview.
// Not responsible for datagrams (arrows.js), nor for what is to be seen: `view` says it ({from, to, lanes, datagrams, fates,
// chain}).

const GUTTER = 132;
const RIGHT = 14;
const SPANS_MAX = 600;
const STRIPS_MAX = 12;
const STRIPS_MAX_OF_MANY = 8;
const FAULT_ROWS_MAX = 8;
const VIOLATIONS_MAX = 20;
const BAD_NEWS = /^(failed|killed|did not|restarts|restarting|ended|refused|watch failed|\w+ breaks)/;
const EPOCH_COLOURS = 6;

function make(name, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}

function epochClass(epoch) {
  return epoch ? `epoch-${((epoch - 1) % EPOCH_COLOURS) + 1}` : "epoch-0";
}

function seconds(ns, digits) {
  return `${(ns / 1e9).toFixed(digits)} s`;
}

// A step of 1, 2 or 5 times a power of ten that makes about `count` parts of `span`.
function niceStep(span, count) {
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
}

class Chart {
  constructor(run, axis, lanes, overview) {
    this.run = run;
    this.axis = axis;
    this.lanes = lanes;
    this.overview = overview;
  }

  // Time to pixels, and back.
  x(t) {
    return GUTTER + ((t - this.view.from) / (this.view.to - this.view.from)) * this.plotWidth;
  }

  time(x) {
    return this.view.from + ((x - GUTTER) / this.plotWidth) * (this.view.to - this.view.from);
  }

  // Draws all anew. Returns {arrows, shown, crowded}: datagrams in the window, drawn as arrows, and drawn as bars.
  draw(view) {
    this.view = view;
    this.width = Math.max(480, this.lanes.parentElement.clientWidth);
    this.plotWidth = this.width - GUTTER - RIGHT;
    this._placeLanes();
    this._drawAxis();
    this.lanes.replaceChildren();
    this.lanes.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.lanes.setAttribute("height", this.height);
    this.lanes.dataset.from = view.from;
    this.lanes.dataset.to = view.to;
    this._definePatterns();
    const clip = make("g", { "clip-path": "url(#plot)" }, this.lanes);
    this._drawGround(clip);
    for (const place of this.places.values()) this._drawBody(clip, place);
    const drawn = drawDatagrams(this, clip);
    this._drawMarks(clip);
    this._drawViolations(this.axis, this.axisHeight, true);
    this._drawViolations(clip, this.height, false);
    for (const place of this.places.values()) this._drawName(place);
    this.cursors = [
      make("line", { class: "cursor", y1: 0, y2: this.axisHeight }, this.axis),
      make("line", { class: "cursor", id: "cursor", y1: 0, y2: this.height }, this.lanes),
    ];
    return drawn;
  }

  moveCursor(t) {
    const isIn = t >= this.view.from && t <= this.view.to;
    for (const cursor of this.cursors) {
      cursor.setAttribute("x1", this.x(t));
      cursor.setAttribute("x2", this.x(t));
      cursor.setAttribute("visibility", isIn ? "visible" : "hidden");
    }
  }

  _placeLanes() {
    const names = this.view.lanes;
    const isMany = names.length > 14;
    const strip = names.length <= 6 ? 11 : isMany ? 4 : 8;
    const between = names.length <= 4 ? 84 : names.length <= 8 ? 58 : names.length <= 14 ? 40 : 26;
    let y = names.length <= 8 ? 42 : 30;
    this.strip = strip;
    this.places = new Map();
    names.forEach((name, order) => {
      const seen = new Set(names);
      const peers = [...(this.run.peers.get(name) ?? [])];
      peers.sort((one, other) => Number(seen.has(other)) - Number(seen.has(one)));
      const strips = peers.slice(0, isMany ? STRIPS_MAX_OF_MANY : STRIPS_MAX);
      const height = Math.max(16, strips.length * (strip + 1) + 3);
      this.places.set(name, { name, order, top: y, bottom: y + height, strips, more: peers.length - strips.length });
      y += height + between;
    });
    this.between = between;
    this.height = y - between + (names.length <= 8 ? 42 : 30);
  }

  _definePatterns() {
    const patterns = make("defs", {}, this.lanes);
    const clip = make("clipPath", { id: "plot" }, patterns);
    make("rect", { x: GUTTER, y: 0, width: this.plotWidth + RIGHT, height: this.height }, clip);
    for (const [id, size, colour, width] of [
      ["hatch", 5, "var(--hatch)", 2.2],
      ["hatch-away", 6, "var(--away)", 2.5],
      ["hatch-gap", 8, "var(--line)", 3],
    ]) {
      const pattern = make(
        "pattern",
        { id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        patterns,
      );
      make("line", { x1: 0, y1: 0, x2: 0, y2: size, stroke: colour, "stroke-width": width }, pattern);
    }
  }

  // A rectangle between two times; `to` null lasts to the end. Nothing if it is not in the window.
  _rect(parent, attributes, from, to, y, height, least = 0) {
    const end = to ?? this.run.end;
    if (end < this.view.from || from > this.view.to) return null;
    const left = Math.max(GUTTER, this.x(from));
    const width = Math.min(GUTTER + this.plotWidth, this.x(end)) - left;
    if (width < least / 4) return null;
    return make("rect", { ...attributes, x: left.toFixed(2), y, width: Math.max(width, least).toFixed(2), height }, parent);
  }

  _drawAxis() {
    this.axis.replaceChildren();
    const { from, to } = this.view;
    const { rows, left } = this._packFaults();
    const hasViolation = this._violations().length > 0;
    this.axisHeight = 24 + rows.length * 17 + (rows.length ? 4 : 0) + (hasViolation ? 16 : 0);
    this.axis.setAttribute("viewBox", `0 0 ${this.width} ${this.axisHeight}`);
    this.axis.setAttribute("height", this.axisHeight);
    const step = niceStep(to - from, Math.max(3, this.plotWidth / 110));
    const digits = Math.max(0, Math.min(9, Math.ceil(-Math.log10(step / 1e9) - 1e-9)));
    this.ticks = [];
    for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) {
      this.ticks.push(tick);
      make("line", { class: "grid", x1: this.x(tick), x2: this.x(tick), y1: 18, y2: this.axisHeight }, this.axis);
      const x = this.x(tick);
      const anchor = x < GUTTER + 24 ? "start" : x > this.width - 30 ? "end" : "middle";
      make("text", { class: "tick", x, y: 14, "text-anchor": anchor }, this.axis, seconds(tick, digits));
    }
    rows.forEach((row, number) => {
      const y = 22 + number * 17;
      for (const span of row) this._drawFault(span, y);
    });
    make("rect", { class: "gutter", x: 0, y: 0, width: GUTTER - 1, height: this.axisHeight }, this.axis);
    if (rows.length) make("text", { class: "small", x: 10, y: 33 }, this.axis, "faults");
    if (left) make("text", { class: "small", id: "more-faults", x: 10, y: 46 }, this.axis, `and ${left} more`);
  }

  // Faults in the window, in rows where none covers another, and how many found no room.
  _packFaults() {
    const rows = [];
    let left = 0;
    for (const span of this.run.faultSpans) {
      const end = span.to ?? this.run.end;
      if (end < this.view.from || span.from > this.view.to) continue;
      const start = this.x(Math.max(span.from, this.view.from));
      span.label = `${span.name}${span.whom.length ? `: ${span.whom.slice(0, 4).join(" ")}` : ""}${span.whom.length > 4 ? " \u2026" : ""}`;
      span.right = Math.max(this.x(Math.min(end, this.view.to)), start + 14 + span.label.length * 6);
      const row = rows.find((each) => each.at(-1).right + 6 < start);
      if (row) row.push(span);
      else if (rows.length < FAULT_ROWS_MAX) rows.push([span]);
      else left++;
    }
    return { rows, left };
  }

  _drawFault(span, y) {
    const fault = make("g", { class: "fault", "data-fault": span.name, "data-line": span.line }, this.axis);
    const left = Math.max(GUTTER, this.x(span.from));
    if (span.isMoment) {
      make("path", { class: "fault-moment", d: `M${left} ${y + 1}l6 6l-6 6l-6 -6z` }, fault);
    } else {
      this._rect(fault, { class: "fault-bar", rx: 3 }, span.from, span.to, y + 10.5, 4, 2);
    }
    make("text", { class: "fault-name", x: left + (span.isMoment ? 9 : 2), y: y + (span.isMoment ? 11 : 8) }, fault, span.label);
  }

  _drawGround(parent) {
    for (const tick of this.ticks) {
      make("line", { class: "grid", x1: this.x(tick), x2: this.x(tick), y1: 0, y2: this.height }, parent);
    }
    this._rect(parent, { class: "calm" }, this.run.plan.healed_ns, this.run.end, 0, this.height);
    for (const gap of this.run.gaps) this._rect(parent, { class: "gap" }, gap.from, gap.to, 0, this.height);
    for (const span of this.run.faultSpans) {
      if (span.isMoment || span.kind === "crash" || span.kind === "pause") continue;
      const marks = { "data-fault": span.name };
      if (!span.whom.length) this._rect(parent, { class: "band everywhere", ...marks }, span.from, span.to, 0, this.height);
      for (const whom of span.whom) {
        const place = this.places.get(whom);
        if (!place) continue;
        this._rect(parent, { class: "band", ...marks }, span.from, span.to, place.top - 9, place.bottom - place.top + 18);
      }
    }
  }

  _drawBody(parent, place) {
    const { top, bottom } = place;
    make("rect", { class: "body", x: GUTTER, y: top, width: this.plotWidth, height: bottom - top }, parent);
    place.strips.forEach((peer, number) => this._drawStrip(parent, place, peer, top + 2 + number * (this.strip + 1)));
    for (const absence of this.run.absences.get(place.name)) {
      const look = absence.status === "paused" ? " paused" : "";
      const drawn = this._rect(parent, { class: `absence${look}` }, absence.from, absence.to, top, bottom - top, 1.5);
      if (!drawn || Number(drawn.getAttribute("width")) < 8 + absence.status.length * 6) continue;
      const x = Number(drawn.getAttribute("x")) + 5;
      make("text", { class: `absence-name${look}`, x, y: (top + bottom) / 2 + 3.5 }, parent, absence.status);
    }
    for (const y of [top, bottom]) make("line", { class: "edge", x1: GUTTER, x2: GUTTER + this.plotWidth, y1: y, y2: y }, parent);
  }

  _drawStrip(parent, place, peer, y) {
    let count = 0;
    let right = -1;
    for (const span of this.run.spans.get(`${place.name} ${peer}`) ?? []) {
      const end = span.to ?? this.run.end;
      if (end < this.view.from || span.from > this.view.to) continue;
      if (this.x(end) - right < 0.4) continue;
      if (++count > SPANS_MAX) break;
      right = this.x(end);
      const isWeak = span.state !== "ESTABLISHED" && span.state !== "REKEYING";
      const marks = { "data-node": place.name, "data-peer": peer, "data-state": span.state, "data-epoch": span.epoch };
      const look = `span ${epochClass(span.epoch)}${isWeak ? " weak" : ""}`;
      const drawn = this._rect(parent, { class: look, ...marks }, span.from, span.to, y, this.strip, 0.8);
      if (!drawn) continue;
      const width = Number(drawn.getAttribute("width"));
      if (span.state !== "ESTABLISHED" && width > 1) {
        this._rect(parent, { class: "veil", "pointer-events": "none" }, span.from, span.to, y, this.strip);
      } else if (this.strip >= 9 && width > 8 + 6 * String(span.epoch).length) {
        make("text", { class: "epoch", x: Number(drawn.getAttribute("x")) + 4, y: y + this.strip - 2.5 }, parent, span.epoch);
      }
    }
  }

  _drawName(place) {
    const group = make("g", { class: "lane", "data-node": place.name }, this.lanes);
    const hasNames = this.strip >= 8;
    const name = place.name.length > 15 ? `${place.name.slice(0, 14)}\u2026` : place.name;
    make("text", { class: "name", x: 10, y: (place.top + place.bottom) / 2 + 4.5 }, group, name);
    if (!hasNames && place.more > 0) {
      const words = `${place.strips.length} of ${place.strips.length + place.more} peers`;
      make("text", { class: "small", x: 10, y: (place.top + place.bottom) / 2 + 17 }, group, words);
    }
    if (!hasNames) return;
    place.strips.forEach((peer, number) => {
      const short = peer.length > 9 ? `${peer.slice(0, 8)}\u2026` : peer;
      const y = place.top + 2 + number * (this.strip + 1) + this.strip - 1.5;
      make("text", { class: "small", x: GUTTER - 6, y, "text-anchor": "end" }, group, short);
    });
    if (place.more > 0) {
      make("text", { class: "small", x: GUTTER - 6, y: place.bottom + 9, "text-anchor": "end" }, group, `and ${place.more} more`);
    }
  }

  // What is told of a node besides its sessions: moments of faults, lives, actors, the store.
  _drawMarks(parent) {
    const { run, view } = this;
    for (const span of run.faultSpans) {
      if (!span.isMoment || span.from < view.from || span.from > view.to) continue;
      for (const whom of span.whom) {
        const place = this.places.get(whom);
        if (!place) continue;
        const x = this.x(span.from);
        make("line", { class: "moment", x1: x, x2: x, y1: place.top - 8, y2: place.bottom }, parent);
        make("path", { class: "fault-moment", "data-line": span.line, d: `M${x} ${place.top - 15}l6 6l-6 6l-6 -6z` }, parent);
      }
    }
    const news = new Map(); // one for each pixel of a lane, bad news before others
    for (let i = upperBound(run.t, view.from - 1); i < run.count && run.t[i] <= view.to; i++) {
      if (run.kind[i] !== "node" && run.kind[i] !== "actor" && run.kind[i] !== "store") continue;
      if (!this.places.has(run.node[i])) continue;
      const key = `${run.node[i]} ${Math.round(this.x(run.t[i]))}`;
      const isBad = BAD_NEWS.test(run.what[i]);
      if (!news.has(key) || (isBad && !news.get(key).isBad)) news.set(key, { i, isBad });
    }
    for (const { i, isBad } of news.values()) {
      const { bottom } = this.places.get(run.node[i]);
      const shape = `M${this.x(run.t[i]).toFixed(1)} ${bottom}l5 8l-10 0z`;
      make("path", { class: isBad ? "mark bad" : "mark", "data-line": i, d: shape }, parent);
    }
  }

  // Those in the window: [time, property].
  _violations() {
    const { run, view } = this;
    const places = run.violations.map((i) => [run.t[i], run.what[i]]);
    if (!places.length && run.failure) places.push([run.failure.at_ns, run.failure.property]);
    return places.filter(([t]) => t >= view.from && t <= view.to).slice(0, VIOLATIONS_MAX);
  }

  _drawViolations(parent, height, isNamed) {
    for (const [t, what] of this._violations()) {
      const x = this.x(t);
      make("line", { class: "violation", x1: x, x2: x, y1: isNamed ? 18 : 0, y2: height }, parent);
      if (!isNamed) continue;
      const anchor = x > GUTTER + this.plotWidth * 0.6 ? "end" : "start";
      make("text", { class: "violation-name", x: x + (anchor === "end" ? -5 : 5), y: height - 4, "text-anchor": anchor }, parent, `\u2716 ${what}`);
    }
  }

  // The whole run at a glance: how much happens, what is lost, faults, and the window.
  drawOverview() {
    const { run, overview, view } = this;
    const width = overview.clientWidth || this.width;
    const columns = Math.max(60, Math.floor(width / 3));
    if (this._overviewWidth !== width) {
      this._overviewWidth = width;
      overview.replaceChildren();
      overview.setAttribute("viewBox", `0 0 ${width} 46`);
      const all = new Array(columns).fill(0);
      const lost = new Array(columns).fill(0);
      for (let i = 0; i < run.count; i++) {
        const column = Math.min(columns - 1, Math.floor((run.t[i] / run.end) * columns));
        if (run.kind[i] === "send") all[column]++;
        if (run.kind[i] === "lost") lost[column]++;
      }
      const most = Math.max(1, ...all, ...lost);
      const bar = width / columns;
      const draw = (counts, look) =>
        counts.forEach((count, column) => {
          const height = Math.sqrt(count / most) * 34;
          if (count) make("rect", { class: look, x: column * bar, y: 40 - height, width: bar * 0.8, height }, overview);
        });
      draw(all, "load");
      draw(lost, "load lost");
      for (const span of run.faultSpans.slice(0, SPANS_MAX)) {
        const x = (span.from / run.end) * width;
        const size = Math.max(2, (((span.to ?? run.end) - span.from) / run.end) * width);
        make("rect", { class: "fault-bar", x, y: 42, width: size, height: 3 }, overview);
      }
      for (const i of run.violations) {
        make("line", { class: "violation", x1: (run.t[i] / run.end) * width, x2: (run.t[i] / run.end) * width, y1: 0, y2: 46 }, overview);
      }
      this._window = make("rect", { class: "window", y: 0, height: 46 }, overview);
      this._edge = make("rect", { class: "window-edge", y: 0.5, height: 45 }, overview);
    }
    for (const shape of [this._window, this._edge]) {
      shape.setAttribute("x", (view.from / run.end) * width);
      shape.setAttribute("width", Math.max(3, ((view.to - view.from) / run.end) * width));
    }
  }
}
