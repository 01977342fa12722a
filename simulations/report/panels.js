// Everything beside the chart: header, filters, legend, the state of each node, and the lines of the trace.
// Not responsible for time passing nor for what the person does with the chart (page.js).

const CHIPS_MAX = 24;
const LANES_MAX = 40;
const ROWS_MAX = 50;
const SESSIONS_MAX = 40;
const LINES_BEFORE = 30;
const LINES_AFTER = 12;
const TRAFFIC = new Set(["send", "lost", "arrive", "deliver"]);

const byId = (id) => document.getElementById(id);

function put(name, parent, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent?.append(element);
  return element;
}

// The state of the page is the page's: its run, its view, and how far it has come.
class Panels {
  // With too many nodes: those whom faults befall and those near the violation, then the others in their order.
  _firstLanes() {
    const { run } = this;
    if (run.nodes.length <= LANES_MAX) return run.nodes;
    const chosen = new Set();
    const near = run.violations.length ? run.violations[0] : -1;
    for (let i = near; i >= 0 && i > near - LANES_MAX; i--) if (run.peers.has(run.node[i])) chosen.add(run.node[i]);
    for (const span of run.faultSpans) if (span.whom.length <= 2) span.whom.forEach((each) => run.peers.has(each) && chosen.add(each));
    for (const name of run.nodes) chosen.add(name);
    const first = new Set([...chosen].slice(0, LANES_MAX));
    return run.nodes.filter((name) => first.has(name));
  }

  _fillHeader() {
    const { plan, failure, verdict, replay, extent } = this.carried;
    byId("title").textContent = `${plan.scenario}, seed ${plan.seed}`;
    byId("verdict").textContent = verdict;
    byId("verdict").classList.toggle("bad", failure !== null);
    const count = (number) => number.toLocaleString("en");
    byId("facts").textContent = [
      `${plan.nodes.length} nodes`, `depth: ${plan.depth}`, `suite ${plan.suite}`, `${seconds(plan.duration_ns, 0)} of virtual time`,
      `${count(extent.read)} lines of trace`,
    ].join(" \u00b7 ");
    byId("replay").textContent = replay;
    if (failure) {
      byId("failure").hidden = false;
      byId("property").textContent = failure.property;
      byId("message").textContent = failure.message;
      byId("to-failure").textContent = `at ${seconds(failure.at_ns, 6)}`;
    }
    const remarks = [];
    if (extent.left_out) {
      remarks.push(`${count(extent.left_out)} of ${count(extent.read)} lines are left out of this page, which holds those ` +
        `${failure ? "around the failure" : "at the end"}; where they are missing the lanes are hatched. The trace has them all.`);
    }
    if (extent.unreadable) remarks.push(`${count(extent.unreadable)} lines could not be read.`);
    byId("left-out").hidden = !remarks.length;
    byId("left-out").textContent = remarks.join(" ");
  }

  _chip(parent, text, look, isOn, change) {
    const label = put("label", parent);
    const box = put("input", label);
    box.type = "checkbox";
    box.checked = isOn;
    box.value = text;
    if (look) label.style.setProperty("--chip", look);
    put("span", label, text);
    box.addEventListener("change", () => {
      change(box.checked);
      this.refresh();
    });
  }

  _fillFilters() {
    const { run, view } = this;
    const toggle = (set, each) => (isOn) => (isOn ? set.add(each) : set.delete(each));
    const present = new Set(run.arrows.map((arrow) => arrow.datagram));
    const kinds = byId("kinds");
    for (const each of DATAGRAMS) if (present.has(each)) this._chip(kinds, each, `var(--${each})`, true, toggle(view.datagrams, each));
    put("span", kinds, "that", "quiet");
    for (const each of FATES) this._chip(kinds, each, "var(--pick)", true, toggle(view.fates, each));
    const lanes = byId("lanes-chosen");
    if (run.nodes.length <= CHIPS_MAX) {
      const chosen = new Set(view.lanes);
      for (const name of run.nodes) {
        this._chip(lanes, name, "var(--pick)", true, (isOn) => {
          toggle(chosen, name)(isOn);
          view.lanes = run.nodes.filter((each) => chosen.has(each));
        });
      }
      return;
    }
    const box = put("input", lanes);
    box.type = "search";
    box.placeholder = "parts of names: n1, n20";
    box.setAttribute("aria-label", "Nodes to show");
    const note = put("span", lanes, "", "quiet");
    const tell = (found) => (note.textContent = `${view.lanes.length} of ${run.nodes.length} nodes are shown` +
      (found > LANES_MAX ? `, the first of ${found} that match` : ""));
    tell(0);
    box.addEventListener("input", () => {
      const parts = box.value.split(/[\s,]+/).filter(Boolean);
      const found = run.nodes.filter((name) => parts.some((part) => name === part || (part.length > 1 && name.includes(part))));
      view.lanes = parts.length ? found.slice(0, LANES_MAX) : this._firstLanes();
      tell(found.length);
      this.refresh();
    });
  }

  _fillLegend() {
    const legend = byId("legend");
    const item = (text, draw) => {
      const span = put("span", legend);
      draw(make("svg", { viewBox: "0 0 44 14" }, span));
      put("span", span, text);
    };
    const arrow = (look, head) => (svg) => {
      const group = make("g", { class: `arrow ${look}` }, svg);
      make("line", { class: "shaft", x1: 4, y1: 7, x2: 36, y2: 7 }, group);
      if (head) make("path", head, group);
    };
    const head = { class: "head", d: "M40 7L33 4L33 10z" };
    for (const each of DATAGRAMS) if (this.run.arrows.some((one) => one.datagram === each)) item(each, arrow(each, head));
    item("arrived, and nothing came of it", arrow("data fruitless", head));
    item("lost", arrow("data lost", { class: "cross", d: "M33 3.5l7 7m0 -7l-7 7" }));
    item("a second copy", arrow("data copy", head));
    item("replayed, or from a stranger", (svg) => {
      arrow("data", head)(svg);
      make("circle", { class: "origin", cx: 4, cy: 7, r: 3 }, svg);
    });
    const box = (look, veil) => (svg) => {
      make("rect", { class: look, x: 2, y: 1, width: 40, height: 12 }, svg);
      if (veil) make("rect", { class: veil, x: 2, y: 1, width: 40, height: 12 }, svg);
    };
    for (const epoch of [1, 2, 3]) item(`keys of epoch ${epoch}`, box(`span ${epochClass(epoch)}`));
    item("rekeying", box("span epoch-1", "veil"));
    item("no confirmed keys yet", box("span epoch-0 weak", "veil"));
    item("fault", box("fault-bar"));
    const mark = (look, d) => (svg) => make("path", { class: look, d }, svg);
    item("fault of a moment", mark("fault-moment", "M22 1l6 6l-6 6l-6 -6z"));
    item("news of the node, its actors or the store", mark("mark", "M22 3l5 8l-10 0z"));
    item("bad news", mark("mark bad", "M22 3l5 8l-10 0z"));
    item("down", box("absence"));
    item("paused", box("absence paused"));
    item("calm: no fault any more", box("calm"));
  }

  _fillState() {
    const standing = this.run.standingAfter(this.taken);
    byId("state-at").textContent = seconds(this.cursor, 6);
    const active = [...standing.faults].map(([name, { whom }]) => (whom ? `${name} (${whom})` : name));
    byId("faults-now").textContent = active.length ? `Faults at work: ${active.join(", ")}` : "No fault is at work.";
    const body = byId("state").tBodies[0];
    body.replaceChildren();
    const names = this.view.lanes.slice(0, ROWS_MAX);
    for (const name of names) {
      const node = standing.nodes.get(name);
      const row = put("tr", body);
      row.dataset.node = name;
      put("td", row, name);
      const status = standing.status(name);
      put("td", row, status, status === "up" ? "" : "away");
      for (const count of [node.sent, node.arrived, node.lost, node.delivered]) put("td", row, count, "number");
      const cell = put("td", row);
      const sessions = [...node.sessions].sort();
      for (const [peer, { state, epoch }] of sessions.slice(0, SESSIONS_MAX)) {
        const session = put("span", cell, undefined, "session");
        put("span", session, undefined, `swatch ${epochClass(epoch)}`);
        put("span", session, `${peer}: ${state.toLowerCase()} ${epoch}`);
      }
      if (sessions.length > SESSIONS_MAX) put("span", cell, `and ${sessions.length - SESSIONS_MAX} more`, "quiet");
      for (const [path, what] of node.actors) if (!what.startsWith("started")) put("div", cell, `${path}: ${what}`, "quiet");
      if (node.store) put("div", cell, `store: ${node.store}`, "quiet");
    }
    byId("state-cut").hidden = this.run.nodes.length <= names.length;
    byId("state-cut").textContent = `${names.length} of ${this.run.nodes.length} nodes: those with a lane.`;
  }

  _fillLines() {
    const { run } = this;
    const isMarksOnly = byId("only-marks").checked;
    const isWanted = (i) => !isMarksOnly || !TRAFFIC.has(run.kind[i]);
    const rows = [];
    for (let i = this.taken - 1; i >= 0 && rows.length < LINES_BEFORE; i--) if (isWanted(i)) rows.unshift(i);
    const first = rows.length;
    for (let i = this.taken; i < run.count && rows.length < first + LINES_AFTER; i++) if (isWanted(i)) rows.push(i);
    const body = byId("lines").tBodies[0];
    body.replaceChildren();
    for (const i of rows) {
      const row = put("tr", body, undefined, i === this.taken - 1 ? "current" : i >= this.taken ? "later" : "");
      if (run.kind[i] === "violation") row.classList.add("violation-row");
      row.dataset.line = i;
      const bytes = run.size[i] ? ` (${run.size[i]} bytes)` : "";
      for (const text of [seconds(run.t[i], 6), run.node[i], run.kind[i], run.peer[i], run.what[i] + bytes]) put("td", row, text);
    }
  }
}
