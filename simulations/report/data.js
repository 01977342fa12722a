// The run: decodes what the page carries, joins datagrams to arrows, and says how everything stood after each line.
// Not responsible for drawing, nor for what the person does.

const DATAGRAMS = ["initiation", "response", "cookie", "reset", "keepalive", "data", "other"];
const FATES = ["arrived", "lost", "uninvited"];
const CHAIN_MAX = 60;
const GONE = /^(killed|left|failed)/; // what ends the life of a node; other news of it are incidents

// The first index whose value is above `limit`, in a rising array.
function upperBound(values, limit) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

function datagramOf(what) {
  const word = what.split(" ", 1)[0];
  return DATAGRAMS.includes(word) ? word : "other";
}

// How a session stands: the word of its state, and the number of its keys, 0 for none.
function sessionOf(what) {
  const parts = /^(\S+) epoch (\d+)$/.exec(what);
  return parts ? { state: parts[1], epoch: Number(parts[2]) } : { state: what, epoch: 0 };
}

class Run {
  constructor(carried) {
    this.plan = carried.plan;
    this.faults = new Map(carried.faults.map((fault) => [fault.name, fault]));
    this.gaps = carried.gaps;
    this.extent = carried.extent;
    this.before = new Map(Object.entries(carried.before));
    this._decode(carried.lines);
    this._collectNodes();
    this._findLatecomers();
    this._joinCauses();
    this._joinArrows();
    this._drawHistory();
    const last = this.count ? this.t[this.count - 1] : 0;
    this.failure = carried.failure;
    this.end = this.failure ? Math.max(last, this.failure.at_ns, 1) : Math.max(last, this.plan.duration_ns, 1);
    this.violations = this._ofKind("violation");
  }

  _decode(columns) {
    const names = columns.names;
    this.count = columns.t.length;
    this.t = new Float64Array(this.count);
    this.seq = new Float64Array(this.count);
    this.cause = new Float64Array(this.count);
    let t = 0;
    let seq = 0;
    for (let i = 0; i < this.count; i++) {
      this.t[i] = t += columns.t[i];
      this.seq[i] = seq += columns.seq[i];
      this.cause[i] = columns.cause[i] ? seq - columns.cause[i] : 0;
    }
    this.size = columns.size;
    this.kind = columns.kind.map((each) => names[each]);
    this.node = columns.node.map((each) => names[each]);
    this.peer = columns.peer.map((each) => names[each]);
    this.what = columns.what.map((each) => names[each]);
  }

  // Lanes: the nodes of the plan, and whoever else does what only nodes do.
  _collectNodes() {
    const seen = new Set(this.plan.nodes);
    const deeds = new Set(["send", "arrive", "deliver", "state", "node", "actor", "store"]);
    for (let i = 0; i < this.count; i++) if (deeds.has(this.kind[i]) && this.node[i] !== "nobody") seen.add(this.node[i]);
    this.nodes = [...seen];
    this.peers = new Map(this.nodes.map((name) => [name, new Set()]));
    for (const [first, second] of this.plan.pairs) {
      this.peers.get(first)?.add(second);
      this.peers.get(second)?.add(first);
    }
    for (let i = 0; i < this.count; i++) if (this.kind[i] === "state") this.peers.get(this.node[i])?.add(this.peer[i]);
  }

  // Nodes of which the first news is that they are up, later than at the start.
  _findLatecomers() {
    this.latecomers = new Set();
    const known = new Set();
    for (let i = 0; i < this.count && !this.extent.left_out; i++) {
      if (!this.peers.has(this.node[i]) || known.has(this.node[i])) continue;
      known.add(this.node[i]);
      if (this.kind[i] === "node" && this.what[i] === "up" && this.t[i] > 0) this.latecomers.add(this.node[i]);
    }
  }

  _joinCauses() {
    this.index = new Map();
    for (let i = 0; i < this.count; i++) this.index.set(this.seq[i], i);
    this.causeIndex = new Int32Array(this.count).fill(-1);
    this._firstEffect = new Int32Array(this.count).fill(-1);
    this._nextEffect = new Int32Array(this.count).fill(-1);
    for (let i = this.count - 1; i >= 0; i--) {
      const cause = this.cause[i] ? this.index.get(this.cause[i]) : undefined;
      if (cause === undefined || cause >= i) continue;
      this.causeIndex[i] = cause;
      this._nextEffect[i] = this._firstEffect[cause];
      this._firstEffect[cause] = i;
    }
  }

  effects(i) {
    const found = [];
    for (let next = this._firstEffect[i]; next >= 0 && found.length < CHAIN_MAX; next = this._nextEffect[next]) found.push(next);
    return found;
  }

  // The lines that led to `i`, the first one first, `i` at the end.
  chain(i) {
    const found = [i];
    while (this.causeIndex[found[0]] >= 0 && found.length < CHAIN_MAX) found.unshift(this.causeIndex[found[0]]);
    return found;
  }

  // One arrow for each end of a datagram: where it arrived (each time), or was lost, or that it was still under way.
  _joinArrows() {
    this.arrows = [];
    for (let i = 0; i < this.count; i++) {
      const kind = this.kind[i];
      if (kind === "send") {
        let copies = 0;
        for (const end of this.effects(i)) {
          if (this.kind[end] !== "arrive" && this.kind[end] !== "lost") continue;
          this._arrow(i, end, this.kind[end] === "lost" ? "lost" : "arrived", copies++ > 0);
        }
        if (!copies) this._arrow(i, -1, "flying", false);
      } else if ((kind === "arrive" || kind === "lost") && this.causeIndex[i] < 0) {
        this._arrow(-1, i, kind === "lost" ? "lost" : this.cause[i] ? "arrived" : "uninvited", false);
      }
    }
    this.arrows.sort((one, other) => one.t0 - other.t0 || one.line - other.line);
    this.starts = Float64Array.from(this.arrows, (arrow) => arrow.t0);
    this.longest = this.arrows.reduce((longest, arrow) => Math.max(longest, arrow.t1 - arrow.t0), 0);
  }

  _arrow(start, end, fate, isCopy) {
    const line = end >= 0 ? end : start;
    const words = this.what[line].split(" ");
    this.arrows.push({
      line,
      start,
      end,
      fate,
      isCopy,
      t0: this.t[start >= 0 ? start : end],
      t1: this.t[line],
      from: start >= 0 ? this.node[start] : fate === "lost" ? "" : this.peer[end],
      to: start >= 0 ? this.peer[start] : this.node[end],
      isAtDoor: fate === "lost" && (start < 0 || this.t[end] > this.t[start] || this.node[end] !== this.node[start]),
      isFruitless: fate !== "lost" && end >= 0 && this._firstEffect[end] < 0,
      datagram: datagramOf(this.what[line]),
      reason: fate === "lost" ? words.slice(2).join(" ") : "",
    });
  }

  // The arrows that reach into a window of time.
  arrowsBetween(from, to) {
    const found = [];
    for (let i = upperBound(this.starts, from - this.longest - 1); i < this.arrows.length; i++) {
      const arrow = this.arrows[i];
      if (arrow.t0 > to) break;
      if (arrow.t1 >= from) found.push(arrow);
    }
    return found;
  }

  _ofKind(kind) {
    const found = [];
    for (let i = 0; i < this.count; i++) if (this.kind[i] === kind) found.push(i);
    return found;
  }

  // Spans of every session, fault and absence, for the lanes.
  _drawHistory() {
    this.spans = new Map(); // "node peer" -> [{from, to, state, epoch}]
    this.absences = new Map(this.nodes.map((name) => [name, []])); // node -> [{from, to, status}]
    this.faultSpans = []; // {name, kind, whom, from, to, isMoment}
    const standing = new Standing(this);
    const away = new Map();
    const open = new Map();
    for (const name of this.latecomers) {
      away.set(name, { from: 0, to: null, status: standing.status(name) });
      this.absences.get(name).push(away.get(name));
    }
    for (let i = 0; i < this.count; i++) {
      const t = this.t[i];
      const changed = standing.take(i);
      for (const [node, peer, session] of changed) {
        const key = `${node} ${peer}`;
        const spans = this.spans.get(key) ?? this.spans.set(key, []).get(key);
        const last = spans.at(-1);
        if (last && last.to === null) last.to = t;
        if (session) spans.push({ from: t, to: null, ...session });
      }
      if (this.kind[i] === "fault") {
        const whom = this.peer[i].split(" ").filter(Boolean);
        const isMoment = this.faults.get(this.node[i])?.is_moment ?? false;
        const span = { name: this.node[i], kind: this.what[i], whom, from: t, to: isMoment ? t : null, isMoment, line: i };
        this.faultSpans.push(span);
        open.set(span.name, span);
      } else if (this.kind[i] === "heal" && open.has(this.node[i])) open.get(this.node[i]).to = t;
      if (this.kind[i] !== "fault" && this.kind[i] !== "heal" && this.kind[i] !== "node") continue;
      for (const name of this.nodes) {
        const status = standing.status(name);
        const span = away.get(name);
        if (span && span.status === status) continue;
        if (span) {
          span.to = t;
          away.delete(name);
        }
        if (status !== "up") {
          away.set(name, { from: t, to: null, status });
          this.absences.get(name).push(away.get(name));
        }
      }
    }
  }

  // How everything stands after the first `count` lines.
  standingAfter(count) {
    const standing = new Standing(this);
    for (let i = 0; i < count; i++) standing.take(i);
    return standing;
  }
}

// How everything stands at one moment: sessions, lives, faults and counts. `take` goes on by one line.
class Standing {
  constructor(run) {
    this.run = run;
    this.faults = new Map();
    this.nodes = new Map();
    for (const name of run.nodes) {
      const [sent, arrived, lost, delivered] = run.before.get(name) ?? [0, 0, 0, 0];
      this.nodes.set(name, {
        sent, arrived, lost, delivered,
        down: 0, paused: 0, life: run.latecomers.has(name) ? "not up yet" : "", sessions: new Map(), actors: new Map(), store: "",
      });
    }
  }

  status(name) {
    const node = this.nodes.get(name);
    if (node.down > 0) return "down";
    if (node.life && node.life !== "up") return node.life;
    return node.paused > 0 ? "paused" : "up";
  }

  // Returns the sessions that changed: [node, peer, session or null].
  take(i) {
    const run = this.run;
    const node = this.nodes.get(run.node[i]);
    const what = run.what[i];
    switch (run.kind[i]) {
      case "send": if (node) node.sent++; break;
      case "arrive": if (node) node.arrived++; break;
      case "lost": if (node) node.lost++; break;
      case "deliver": if (node) node.delivered++; break;
      case "fault": return this._befall(i, 1);
      case "heal": return this._befall(i, -1);
      case "actor":
        if (!node) break;
        if (what === "stopped") node.actors.delete(run.peer[i]);
        else node.actors.set(run.peer[i], what);
        break;
      case "store": if (node) node.store = what; break;
      case "state":
        if (!node) break;
        node.sessions.set(run.peer[i], sessionOf(what));
        return [[run.node[i], run.peer[i], sessionOf(what)]];
      case "node":
        if (!node) break;
        if (what === "up") node.life = what;
        if (!GONE.test(what)) break;
        node.life = what;
        node.actors.clear();
        return this._forget(run.node[i]);
      default:
    }
    return [];
  }

  _befall(i, sign) {
    const run = this.run;
    const name = run.node[i];
    const isMoment = run.faults.get(name)?.is_moment ?? false;
    if (sign < 0) this.faults.delete(name);
    else if (!isMoment) this.faults.set(name, { kind: run.what[i], whom: run.peer[i] });
    const changed = [];
    for (const whom of run.peer[i].split(" ")) {
      const node = this.nodes.get(whom);
      if (!node) continue;
      if (run.what[i] === "crash") node.down = Math.max(0, node.down + sign);
      if (run.what[i] === "pause") node.paused = Math.max(0, node.paused + sign);
      if (sign > 0 && (run.what[i] === "crash" || run.what[i] === "restart")) changed.push(...this._forget(whom));
    }
    return changed;
  }

  // The process has no state any more.
  _forget(name) {
    const node = this.nodes.get(name);
    const changed = [...node.sessions.keys()].map((peer) => [name, peer, null]);
    node.sessions.clear();
    return changed;
  }
}
