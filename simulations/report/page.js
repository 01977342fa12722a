// The page: what the person sees, at which time, and which datagram is picked.
// Not responsible for the meaning of the trace (data.js), for shapes (draw.js) nor for tables (panels.js).

const LEAST_WINDOW_NS = 1000;

class Page extends Panels {
  constructor(carried) {
    super();
    this.carried = carried;
    this.run = new Run(carried);
    this.chart = new Chart(this.run, byId("axis"), byId("lanes"), byId("overview"));
    this.view = {
      from: 0,
      to: this.run.end,
      lanes: this._firstLanes(),
      datagrams: new Set(DATAGRAMS),
      fates: new Set(FATES),
      chain: new Set(),
    };
    this.slider = byId("slider");
    this.slider.max = this.run.end;
    this.picked = -1;
    this.timer = 0;
    this._fillHeader();
    this._fillFilters();
    this._fillLegend();
    this._listen();
    const failure = carried.failure;
    if (failure) this._show(failure.at_ns - 2e9, failure.at_ns + 2e8);
    else this.redraw();
    this.moveTo(failure ? failure.at_ns : 0);
  }

  // Time.

  _show(from, to) {
    const { view, run } = this;
    const size = Math.min(run.end, Math.max(LEAST_WINDOW_NS, to - from));
    view.from = Math.max(0, Math.min(from, run.end - size));
    view.to = view.from + size;
    this.redraw();
  }

  zoom(factor, around) {
    const { from, to } = this.view;
    this._show(around - (around - from) * factor, around + (to - around) * factor);
  }

  _middle() {
    const { from, to } = this.view;
    return this.cursor >= from && this.cursor <= to ? this.cursor : (from + to) / 2;
  }

  // Everything up to and including `t` has happened.
  moveTo(t) {
    this.cursor = Math.max(0, Math.min(t, this.run.end));
    this.taken = upperBound(this.run.t, this.cursor);
    this._moved();
  }

  // The first `count` lines have happened.
  moveToLine(count) {
    this.taken = Math.max(0, Math.min(count, this.run.count));
    this.cursor = this.taken ? this.run.t[this.taken - 1] : 0;
    this._moved();
  }

  _moved() {
    const { from, to } = this.view;
    if (this.cursor < from || this.cursor > to) {
      const ahead = (to - from) * 0.2;
      this._show(this.cursor - ahead, this.cursor - ahead + (to - from));
    }
    this.slider.value = Math.round(this.cursor);
    this.slider.setAttribute("aria-valuetext", seconds(this.cursor, 3));
    byId("now").textContent = seconds(this.cursor, 6);
    this.chart.moveCursor(this.cursor);
    this._later(() => {
      this._fillState();
      this._fillLines();
    });
  }

  _later(work) {
    if (!this._work) requestAnimationFrame(() => {
      const due = this._work;
      this._work = null;
      due();
    });
    this._work = work;
  }

  redraw() {
    const drawn = this.chart.draw(this.view);
    this.chart.drawOverview();
    this.chart.moveCursor(this.cursor ?? 0);
    byId("shown").textContent = `${seconds(this.view.to - this.view.from, 3)} in view, ${drawn.arrows} datagrams`;
    byId("crowded").hidden = !drawn.crowded;
    byId("crowded").textContent = `Too many for arrows: ${drawn.crowded} datagrams are drawn as bars over the lane of their ` +
      `sender${drawn.shown ? "; those that tell more are arrows" : ""}. Zoom in, or take kinds away.`;
  }

  // After other lanes or kinds were chosen.
  refresh() {
    this.redraw();
    this._fillState();
  }

  _play(isOn) {
    cancelAnimationFrame(this.timer);
    this.timer = 0;
    byId("play").textContent = isOn ? "\u275a\u275a pause" : "\u25b6 play";
    if (!isOn) return;
    if (this.cursor >= this.run.end) this.moveTo(0);
    let before = performance.now();
    const tick = (now) => {
      const passed = (now - before) * 1e6 * Number(byId("speed").value);
      before = now;
      this.moveTo(this.cursor + passed);
      if (this.cursor >= this.run.end) this._play(false);
      else this.timer = requestAnimationFrame(tick);
    };
    this.timer = requestAnimationFrame(tick);
  }

  pick(line) {
    const { run } = this;
    this.picked = line;
    byId("picked").hidden = line < 0;
    this.view.chain = new Set();
    if (line >= 0) {
      const chain = run.chain(line);
      const effects = run.effects(line);
      this.view.chain = new Set([...chain, ...effects]);
      byId("picked-line").textContent = JSON.stringify({
        t: run.t[line], seq: run.seq[line], node: run.node[line], kind: run.kind[line], peer: run.peer[line],
        size: run.size[line], cause: run.cause[line], what: run.what[line],
      });
      for (const [list, lines] of [[byId("chain"), chain], [byId("effects"), effects]]) {
        list.replaceChildren();
        for (const i of lines) {
          const words = `${seconds(run.t[i], 6)} ${run.node[i]} ${run.kind[i]} ${run.peer[i]} ${run.what[i]}`;
          put("li", list, words).dataset.line = i;
        }
        if (!lines.length) put("span", list, "nothing", "quiet");
      }
    }
    this.redraw();
  }

  // What the person does.

  _listen() {
    const on = (id, what, act) => byId(id).addEventListener(what, act);
    this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value)));
    on("play", "click", () => this._play(!this.timer));
    on("back", "click", () => this.moveToLine(this.taken - 1));
    on("forth", "click", () => this.moveToLine(this.taken + 1));
    on("in", "click", () => this.zoom(0.5, this._middle()));
    on("out", "click", () => this.zoom(2, this._middle()));
    on("whole", "click", () => this._show(0, this.run.end));
    on("only-marks", "change", () => this._fillLines());
    on("unpick", "click", () => this.pick(-1));
    on("to-failure", "click", () => this.moveTo(this.carried.failure.at_ns));
    on("copy", "click", () => this._copy());
    for (const id of ["lines", "chain", "effects", "axis"]) {
      on(id, "click", (event) => {
        const place = event.target.closest("[data-line]");
        if (!place) return;
        this.moveToLine(Number(place.dataset.line) + 1);
        this.pick(Number(place.dataset.line));
      });
    }
    this._listenToChart(byId("lanes"));
    this._listenToOverview(byId("overview"));
    document.addEventListener("keydown", (event) => this._key(event));
    let width = byId("lanes").clientWidth;
    new ResizeObserver(() => {
      if (byId("lanes").clientWidth !== width) this.redraw();
      width = byId("lanes").clientWidth;
    }).observe(byId("lanes"));
  }

  _listenToChart(lanes) {
    const scale = (event) => {
      const box = lanes.getBoundingClientRect();
      return ((event.clientX - box.left) / box.width) * this.chart.width;
    };
    lanes.addEventListener("wheel", (event) => {
      if (scale(event) < GUTTER) return;
      event.preventDefault();
      const { from, to } = this.view;
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const way = ((event.deltaX || event.deltaY) / this.chart.plotWidth) * (to - from);
        this._show(from + way, to + way);
      } else this.zoom(event.deltaY > 0 ? 1.25 : 0.8, this.chart.time(scale(event)));
    }, { passive: false });
    let drag = null;
    lanes.addEventListener("pointerdown", (event) => {
      if (event.button === 0) drag = { x: scale(event), from: this.view.from, to: this.view.to, isMoved: false };
    });
    addEventListener("pointermove", (event) => {
      if (!drag) return;
      const way = scale(event) - drag.x;
      if (Math.abs(way) > 4) drag.isMoved = true;
      const time = (way / this.chart.plotWidth) * (drag.to - drag.from);
      if (drag.isMoved) this._show(drag.from - time, drag.to - time);
    });
    addEventListener("pointerup", (event) => {
      if (!drag) return;
      const { isMoved, x } = drag;
      drag = null;
      if (isMoved) return;
      const place = event.target.closest?.("[data-line]");
      if (place) {
        this.moveToLine(Number(place.dataset.line) + 1);
        this.pick(Number(place.dataset.line));
      } else if (x > GUTTER) this.moveTo(this.chart.time(x));
    });
    const tip = byId("tip");
    byId("lanes").parentElement.addEventListener("pointerover", (event) => {
      const words = drag ? "" : this._tip(event.target);
      tip.hidden = !words;
      tip.textContent = words;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 440)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, innerHeight - 60)}px`;
    });
    byId("lanes").parentElement.addEventListener("pointerleave", () => (tip.hidden = true));
  }

  _tip(target) {
    const { run } = this;
    const place = target.closest?.("[data-line], [data-state], [data-fault]");
    if (!place) return "";
    const { line, state, fault, node, peer, epoch } = place.dataset;
    if (state !== undefined) return `${node} with ${peer}: ${state.toLowerCase()}, epoch ${epoch}`;
    if (fault !== undefined) {
      const known = run.faults.get(fault);
      return `${fault}${known?.values ? `: ${known.values}` : ""}`;
    }
    const i = Number(line);
    return `${seconds(run.t[i], 6)} ${run.node[i]} ${run.kind[i]} ${run.peer[i]}: ${run.what[i]}${run.size[i] ? `, ${run.size[i]} bytes` : ""}`;
  }

  _listenToOverview(overview) {
    let isDown = false;
    const center = (event) => {
      const box = overview.getBoundingClientRect();
      const middle = ((event.clientX - box.left) / box.width) * this.run.end;
      const half = (this.view.to - this.view.from) / 2;
      this._show(middle - half, middle + half);
    };
    overview.addEventListener("pointerdown", (event) => {
      isDown = true;
      overview.setPointerCapture(event.pointerId);
      center(event);
    });
    overview.addEventListener("pointermove", (event) => isDown && center(event));
    overview.addEventListener("pointerup", () => (isDown = false));
  }

  _key(event) {
    const { target, key } = event;
    const isTyping = target.matches("input[type=search], select") || event.ctrlKey || event.metaKey || event.altKey;
    if (isTyping || (key === " " && target.matches("button, summary, input"))) return;
    const tenth = (this.view.to - this.view.from) / 10;
    const acts = {
      ArrowRight: () => (event.shiftKey ? this.moveTo(this.cursor + tenth) : this.moveToLine(this.taken + 1)),
      ArrowLeft: () => (event.shiftKey ? this.moveTo(this.cursor - tenth) : this.moveToLine(this.taken - 1)),
      Home: () => this.moveTo(0),
      End: () => this.moveTo(this.run.end),
      "+": () => this.zoom(0.5, this._middle()),
      "-": () => this.zoom(2, this._middle()),
      0: () => this._show(0, this.run.end),
      " ": () => this._play(!this.timer),
      Escape: () => this.pick(-1),
    };
    if (!Object.hasOwn(acts, key)) return;
    event.preventDefault();
    acts[key]();
  }

  async _copy() {
    const text = this.carried.replay;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(byId("replay"));
      document.execCommand("copy");
    }
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
  }
}

new Page(JSON.parse(byId("run").textContent));
