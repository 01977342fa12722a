// Datagrams: as arrows between the lanes, or as bars where they are too many for arrows.
// Not responsible for lanes and time (draw.js).

const ARROWS_MAX = 1500;
const ARROW_PX = 10; // of a lane, for each arrow, on average
const CROWD_PX = 4;
const HANDSHAKE = new Set(["initiation", "response", "cookie", "reset"]);

function isWanted(chart, arrow) {
  const fate = arrow.fate === "flying" ? "arrived" : arrow.fate;
  const { places, view } = chart;
  return (places.has(arrow.from) || places.has(arrow.to)) && view.datagrams.has(arrow.datagram) && view.fates.has(fate);
}

// As arrows, if there is room; else what carries data as bars, and then all of them.
function drawDatagrams(chart, parent) {
  const wanted = chart.run.arrowsBetween(chart.view.from, chart.view.to).filter((arrow) => isWanted(chart, arrow));
  const isPicked = (arrow) => chart.view.chain.has(arrow.line);
  const isHandshake = (arrow) => HANDSHAKE.has(arrow.datagram) || isPicked(arrow);
  const isInvited = (arrow) => (isHandshake(arrow) && chart.run.peers.has(arrow.from) && chart.run.peers.has(arrow.to)) || isPicked(arrow);
  const tiers = [() => true, (arrow) => isHandshake(arrow) || arrow.fate === "lost", isHandshake, isInvited, isPicked];
  const room = Math.min(ARROWS_MAX, (chart.plotWidth * chart.places.size) / ARROW_PX);
  const shown = tiers.map((tier) => wanted.filter(tier)).find((each) => each.length <= room) ?? [];
  const alone = new Set(shown);
  const crowd = wanted.filter((arrow) => !alone.has(arrow));
  drawCrowd(chart, parent, crowd);
  for (const arrow of shown) drawArrow(chart, parent, arrow);
  return { arrows: wanted.length, shown: shown.length, crowded: crowd.length };
}

// Bars on the lanes: how many datagrams each node sent (or, if a stranger did, got) in each few pixels.
function drawCrowd(chart, parent, crowd) {
  const bars = new Map();
  let most = 1;
  for (const arrow of crowd) {
    const place = chart.places.get(arrow.from) ?? chart.places.get(arrow.to);
    const column = Math.floor((chart.x(arrow.t0) - GUTTER) / CROWD_PX);
    if (column < 0) continue;
    const key = `${place.name} ${column}`;
    const bar = bars.get(key) ?? bars.set(key, { place, column, all: 0, lost: 0, kinds: {} }).get(key);
    bar.all++;
    bar.kinds[arrow.datagram] = (bar.kinds[arrow.datagram] ?? 0) + 1;
    if (arrow.fate === "lost") bar.lost++;
    most = Math.max(most, bar.all);
  }
  const room = Math.min(chart.between * 0.42, 34);
  for (const { place, column, all, lost, kinds } of bars.values()) {
    const x = GUTTER + column * CROWD_PX;
    const height = (count) => room * Math.sqrt(count / most); // so that a flood leaves the others to be seen
    const kind = Object.keys(kinds).reduce((one, other) => (kinds[other] > kinds[one] ? other : one));
    make("rect", { class: `crowd ${kind}`, x, width: CROWD_PX - 1, y: place.top - height(all), height: height(all) }, parent);
    if (lost) make("rect", { class: "crowd lost", x, width: CROWD_PX - 1, y: place.top - height(lost), height: height(lost) }, parent);
  }
}

function drawArrow(chart, parent, arrow) {
  const [from, to] = [chart.places.get(arrow.from), chart.places.get(arrow.to)];
  const isDown = from && to ? to.order > from.order : Boolean(from);
  const here = from ?? to;
  const stub = chart.between * 0.42 * (isDown ? 1 : -1);
  let start = { x: chart.x(arrow.t0), y: from ? (isDown ? from.bottom : from.top) : 0 };
  let end = { x: chart.x(arrow.t1), y: to ? (isDown ? to.top : to.bottom) : 0 };
  if (!from) {
    end.y = here.top;
    start = { x: end.x - 16, y: here.top + stub };
  } else if (!to) {
    end = { x: start.x + 14, y: here.bottom + stub };
  } else if (arrow.fate === "lost" && !arrow.isAtDoor) {
    const usual = ((chart.run.plan.latency_low_ns + chart.run.plan.latency_high_ns) / 2 / (chart.view.to - chart.view.from)) * chart.plotWidth;
    end = { x: start.x + Math.min(usual * 0.6, 60), y: start.y + (end.y - start.y) * 0.55 };
  } else if (arrow.fate === "flying") {
    end = { x: start.x + 12, y: start.y + stub };
  }
  const classes = ["arrow", arrow.datagram, arrow.fate];
  if (arrow.isCopy) classes.push("copy");
  if (arrow.isFruitless) classes.push("fruitless");
  if (chart.view.chain.has(arrow.line) || (arrow.start >= 0 && chart.view.chain.has(arrow.start))) classes.push("chained");
  const group = make("g", { class: classes.join(" "), "data-line": arrow.line }, parent);
  const points = [start.x, start.y, end.x, end.y].map((each) => Number(each.toFixed(1)));
  const line = { x1: points[0], y1: points[1], x2: points[2], y2: points[3] };
  make("line", { class: "hit", ...line }, group);
  make("line", { class: "shaft", ...line }, group);
  if (arrow.fate === "uninvited") make("circle", { class: "origin", cx: points[0], cy: points[1], r: 3 }, group);
  if (arrow.fate === "lost") {
    make("path", { class: "cross", d: `M${points[2] - 3.5} ${points[3] - 3.5}l7 7m0 -7l-7 7` }, group);
  } else if (arrow.fate !== "flying") {
    const angle = (Math.atan2(end.y - start.y, end.x - start.x) * 180) / Math.PI;
    const place = `translate(${points[2]} ${points[3]}) rotate(${angle.toFixed(1)})`;
    make("path", { class: "head", d: "M0 0L-7 -3L-7 3z", transform: place }, group);
  }
}
