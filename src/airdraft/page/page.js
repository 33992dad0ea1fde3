// The page: a stream of a server's events, or one file of them, becomes texts; texts become tokens and flights.

const $ = (id) => document.getElementById(id);
const make = (tag, className = "", words = "") => Object.assign(document.createElement(tag), { className, textContent: words });
const still = matchMedia("(prefers-reduced-motion: reduce)");
const LATEST = 24; // texts that are kept
const TRIP_S = 0.02; // a round trip where none is known
const SPAN = 3; // seconds that a live flight diagram shows
const LINKS = { "5G, good: 100 / 300 Mbit/s, 15 ms": [100, 300, 15], "4G: 20 / 100 Mbit/s, 40 ms": [20, 100, 40],
  "4G, far away: 5 / 20 Mbit/s, 100 ms": [5, 20, 100], "satellite: 10 / 50 Mbit/s, 300 ms": [10, 50, 300],
  "slow: 0.5 / 2 Mbit/s, 80 ms": [0.5, 2, 80] };
const PROMPTS = ["class Stack:\n    \"\"\"A last-in, first-out container.\"\"\"\n\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n", "Explain in three sentences why the sky is blue."];
const SAYS = { server: "the edge writes alone and streams each token", auto: "the device guesses, the edge checks; the way is chosen by measurement",
  stream: "the device guesses without a pause, the edge checks what has arrived", coupled: "rounds with shared noise: only token ids travel",
  topk: "rounds: each guess travels with its likeliest rivals", dense: "rounds: each guess travels with its whole distribution",
  lattice: "rounds: distributions on a lattice, in few bits", split: "rounds: the device repairs rejected guesses itself" };

let about = {};
let key = sessionStorage.getItem("airdraft-key") ?? "";
const texts = new Map();
const heard = new Set(); // callbacks after each event

// ---- What the events say

class Text {
  constructor(name) {
    Object.assign(this, { name, began: null, tokens: [], prompt: [], drafts: [], verdicts: [], calls: [], ahead: 0, over: null, end: 0,
      offset: 0, side: "device", scheme: "", wanted: 0, up: 0, accepted: 0, judged: 0, changed: 0, first: null, sums: {}, drafted: 0, batch: 0 });
  }

  at(event) {
    if (event.event === "opened") {
      const at = Date.parse(event.at) / 1000;
      this.began ??= at;
      this.offset = at - this.began;
    }
    if (event.t !== undefined) return this.offset + event.t;
    this.began ??= Date.parse(event.at) / 1000;
    return Date.parse(event.at) / 1000 - this.began;
  }

  take(event) {
    const t = this.at(event);
    this.changed += 1;
    if (event.event !== "readings") this.end = Math.max(this.end, t);
    this[`on_${event.event}`]?.(event, t);
  }

  on_opened(e) {
    if (!this.scheme) Object.assign(this, { side: e.side, scheme: e.scheme, wanted: e.max_tokens, length: e.length, promptLength: e.prompt });
    this.lost(Infinity);
  }
  on_ready(e) {
    if (!this.prompt.length) this.prompt = (e.pieces ?? []).slice(0, this.promptLength);
  }
  on_switch(e) { this.scheme = e.scheme; }
  on_draft(e, t) {
    const flying = this.drafts.filter((each) => each.fate === "flies");
    const start = Math.max(e.start, ...flying.map((each) => each.start + each.count));
    this.drafts.push({ t, start, count: e.count, fate: "flies" });
    this.up += e.bytes;
    this.drafted += e.count;
  }
  on_call(e, t) {
    this.calls.push({ from: this.offset + e.began, to: t, texts: e.texts ?? 1 });
    this.batch = e.texts ?? 0;
  }
  on_committed(e, t) {
    const by = e.by ?? [...Array(e.accepted).fill("device"), ...Array(e.written).fill("raced")];
    const pieces = e.pieces ?? (e.ids ?? by).map(() => null);
    const start = e.length - pieces.length;
    this.first ??= t;
    if (this.ahead) { // what was shown unverified is now settled
      const settled = Math.min(this.ahead, pieces.length);
      this.tokens.splice(this.tokens.length - this.ahead, settled);
      this.ahead -= settled;
    }
    const rest = this.tokens.splice(this.tokens.length - this.ahead, this.ahead);
    pieces.forEach((piece, at) => this.tokens.push({ t, piece, by: by[at + by.length - pieces.length] ?? "raced",
      draft: e.draft?.[at], target: e.target?.[at], with: by.length }));
    this.tokens.push(...rest);
    let good = e.accepted;
    for (const draft of this.drafts.filter((each) => each.fate === "flies" && each.start < e.length)) {
      if (good >= draft.count) draft.fate = "good";
      else draft.fate = good > 0 ? "half" : "lost";
      good = Math.max(0, good - draft.count);
      draft.until = t;
    }
    const rejected = by.includes("recovered");
    if (rejected) this.lost(t);
    this.accepted += e.accepted;
    this.judged += e.accepted + (rejected ? 1 : 0);
    this.verdicts.push({ t, by, start });
  }
  lost(until) {
    for (const draft of this.drafts) if (draft.fate === "flies") Object.assign(draft, { fate: "lost", until });
  }
  on_unverified(e, t) {
    const pieces = e.pieces ?? Array(e.count).fill(null);
    for (const piece of pieces) this.tokens.push({ t, piece, by: "unverified", with: 1 });
    this.ahead += pieces.length;
  }
  on_corrected(e) {
    const gone = Math.min(e.count, this.ahead);
    this.tokens.splice(this.tokens.length - gone, gone);
    this.ahead -= gone;
  }
  on_finished(e) { this.over = e.reason; }
  on_failed(e) { this.over = e.message || e.code; }
  on_lost(e, t) { this.lost(t); }
  on_readings(e) { this.sums = e; }

  /** Tokens a second by the time `t`. */
  speed(t = Infinity) {
    const shown = this.tokens.filter((each) => each.t <= t && each.by !== "unverified");
    if (shown.length < 2) return null;
    const spent = shown.at(-1).t;
    return spent > 0 ? shown.length / spent : null;
  }
}

function heardOf(event) {
  if (event.text !== undefined && !event.text.startsWith("warm-up")) {
    let text = texts.get(event.text);
    if (!text) {
      texts.set(event.text, (text = new Text(event.text)));
      if (texts.size > LATEST) texts.delete(texts.keys().next().value);
    }
    text.take(event);
  }
  for (const each of heard) each(event);
}

// ---- A text on the screen

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const HUES = { device: "model", draft: "edge", salvage: "lookup", ngram: "lookup", predicted: "lookup" };
let hues = {};
function recolour() {
  hues = {};
  for (const name of ["model", "copy", "edge", "lookup", "recovered", "bonus", "raced", "unverified", "bad", "ink", "soft", "line", "card"]) hues[name] = css(name);
}
const hue = (by) => hues[HUES[by] ?? by] ?? hues.raced;

class View {
  /** Shows one text; `rtt` gives the round trip in seconds, if it is known. */
  constructor(title, hint, { rtt = () => null, whole = false } = {}) {
    Object.assign(this, { text: null, rtt, whole, drawn: -1, spans: [], shown: 0, span: SPAN });
    this.root = make("article", "lane");
    const head = make("div", "lane-head");
    this.title = make("h2", "", title);
    this.hint = make("small", "", hint);
    this.title.append(this.hint);
    this.speed = make("div", "speed");
    head.append(this.title, this.speed);
    this.bar = make("div", "bar");
    this.fill = make("i");
    this.bar.append(this.fill);
    this.words = make("div", "words");
    this.words.tabIndex = 0;
    this.words.setAttribute("role", "group");
    this.words.setAttribute("aria-label", `${title}: the text. Left and right arrows go from token to token`);
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.sums = make("p", "sums");
    this.root.append(head, this.bar, this.words, this.canvas, this.sums);
    this.words.addEventListener("keydown", (e) => this.step(e));
    this.words.addEventListener("blur", () => this.point(null));
    for (const kind of ["pointerover", "pointerdown"]) this.words.addEventListener(kind, (e) => this.point(this.spans.indexOf(e.target.closest(".tok")), e.target));
    this.words.addEventListener("pointerleave", () => this.point(null));
  }

  set(text) {
    Object.assign(this, { text, drawn: -1, shown: 0, spans: [] });
    this.words.replaceChildren();
    this.root.classList.remove("won");
  }

  step(e) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!by || !this.spans.length) return;
    e.preventDefault();
    const at = Math.min(this.spans.length - 1, Math.max(0, (this.marked ?? (by > 0 ? -1 : this.spans.length)) + by));
    this.spans[at].scrollIntoView({ block: "nearest" });
    this.point(at);
  }

  point(at) {
    if (this.marked != null) this.spans[this.marked]?.classList.remove("at");
    this.marked = at == null || at < 0 ? null : at;
    const token = this.marked == null ? null : this.text?.tokens[this.marked];
    if (!token) return $("tip").setAttribute("hidden", "");
    this.spans[this.marked].classList.add("at");
    explain(token, this.spans[this.marked]);
  }

  /** Bring the screen up to the time `t` of the text. */
  update(t = Infinity, span = null) {
    const { text } = this;
    if (!text) return this.flights(0, span ?? SPAN);
    if (text.changed !== this.drawn) this.respan();
    let count = text.tokens.length;
    if (t !== Infinity) { count = 0; while (count < text.tokens.length && text.tokens[count].t <= t) count += 1; }
    const follow = this.words.scrollHeight - this.words.scrollTop - this.words.clientHeight < 60;
    for (let at = Math.min(count, this.shown); at < Math.max(count, this.shown); at += 1) {
      this.spans[at].classList.toggle("later", at >= count);
      this.spans[at].classList.toggle("new", at < count && !still.matches);
    }
    if (count !== this.shown && (follow || t !== Infinity)) this.words.scrollTop = this.words.scrollHeight;
    this.shown = count;
    const speed = text.speed(t);
    this.speed.replaceChildren(speed == null ? "–" : speed.toFixed(speed < 10 ? 1 : 0), make("small", "", " tokens/s"));
    this.fill.style.width = `${Math.min(100, (100 * count) / Math.max(1, text.over ? text.tokens.length : text.wanted || 80))}%`;
    this.flights(t === Infinity ? text.end : t, span ?? SPAN);
    this.sum(t);
  }

  respan() {
    const { text } = this;
    if (!this.words.firstChild && text.prompt.length) this.words.append(make("span", "prompt", text.prompt.join("")));
    text.tokens.forEach((token, at) => {
      let span = this.spans[at];
      if (!span) {
        span = make("span");
        this.words.append(span);
        this.spans.push(span);
        span.className = "later";
        this.shown = Math.min(this.shown, at);
      }
      if (span.token === token) return;
      span.token = token;
      const later = span.classList.contains("later");
      span.className = `tok ${token.by}${token.piece === null ? " blank" : ""}${later ? " later" : ""}`;
      span.textContent = token.piece ?? "▇";
    });
    for (const span of this.spans.splice(text.tokens.length)) span.remove();
    this.shown = Math.min(this.shown, this.spans.length);
    this.drawn = text.changed;
  }

  sum(t) {
    const { text } = this;
    const parts = [];
    const add = (words, value) => parts.push(words + " ", make("b", "", value), "   ");
    add("tokens", String(this.shown));
    if (text.first != null) add("first after", `${Math.round(1000 * text.first)} ms`);
    if (text.judged) add("acceptance", `${Math.round((100 * text.accepted) / text.judged)} %`);
    if (text.drafted) add("guesses sent", String(text.drafted));
    if (text.side === "edge" && text.batch) add("batch", String(text.batch));
    const { sent_bytes_total: up, received_bytes_total: down } = text.sums;
    if (up !== undefined) {
      add("up", bytes(up));
      add("down", bytes(down));
      if (about.energy) add("device’s energy*", `${joules(energy(text, up, down))}`);
    }
    if (text.over && !["stop", "length", "cancelled"].includes(text.over)) parts.push(` ended: ${text.over}`);
    const label = parts.map((each) => each.textContent ?? each).join("");
    if (label !== this.told) this.sums.replaceChildren(...parts);
    this.told = label;
  }

  /** Drafts fly up from the device to the edge, verdicts down. */
  flights(now, span) {
    const { canvas, text } = this;
    const scale = Math.min(2, devicePixelRatio || 1), width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    if (canvas.width !== Math.round(width * scale)) Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const draw = canvas.getContext("2d");
    draw.setTransform(scale, 0, 0, scale, 0, 0);
    draw.clearRect(0, 0, width, height);
    const left = 50, top = 26, bottom = height - 36;
    const from = this.whole ? 0 : Math.max(0, now - span);
    const x = (t) => left + ((t - from) / span) * (width - left - 6);
    draw.font = "12px system-ui, sans-serif";
    draw.fillStyle = hues.soft;
    draw.fillText("edge", 6, top + 4);
    draw.fillText("device", 6, bottom + 4);
    draw.strokeStyle = hues.line;
    draw.lineWidth = 1.5;
    for (const y of [top, bottom]) line(draw, left, y, width - 6, y);
    const step = [0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60].find((each) => span / each <= 7) ?? 120;
    for (let t = Math.ceil(from / step) * step; t <= from + span; t += step) draw.fillText(`${+t.toFixed(2)} s`, x(t), height - 2);
    if (!text) return;
    draw.save();
    draw.beginPath();
    draw.rect(left, 0, width - left, height);
    draw.clip();
    const trip = (text.sums.device_rtt_seconds ?? this.rtt(text) ?? TRIP_S) / 2, atEdge = text.side === "edge";
    for (const call of text.calls) {
      if (call.from > now || call.to < from) continue;
      draw.fillStyle = atEdge ? hues.edge : hues.model;
      draw.globalAlpha = 0.55;
      draw.fillRect(x(call.from), atEdge ? top - 14 : bottom + 12, Math.max(1, x(Math.min(call.to, now)) - x(call.from)), 5);
    }
    for (const draft of text.drafts) {
      const [leaves, lands] = atEdge ? [draft.t - trip, draft.t] : [draft.t, draft.t + trip];
      if (leaves > now || lands < from - 1) continue;
      const known = draft.until !== undefined && draft.until <= now;
      const fate = known ? draft.fate : "flies", part = Math.min(1, (now - leaves) / Math.max(1e-6, lands - leaves));
      draw.strokeStyle = draw.fillStyle = { good: hues.model, half: hues.recovered, lost: hues.bad, flies: hues.soft }[fate];
      draw.globalAlpha = fate === "lost" ? 0.75 : 0.9;
      draw.lineWidth = Math.min(4, 1 + 0.5 * draft.count);
      draw.setLineDash(fate === "lost" ? [3, 4] : []);
      const x1 = x(leaves) + part * (x(lands) - x(leaves)), y1 = bottom + part * (top - bottom);
      line(draw, x(leaves), bottom, x1, y1);
      draw.setLineDash([]);
      if (part < 1) dot(draw, x1, y1, 3.5);
      else if (fate === "lost") cross(draw, x1, y1);
    }
    for (const verdict of text.verdicts) {
      const [leaves, lands] = atEdge ? [verdict.t, verdict.t + trip] : [verdict.t - trip, verdict.t];
      if (leaves > now || lands < from - 1) continue;
      const part = Math.min(1, (now - leaves) / Math.max(1e-6, lands - leaves));
      draw.globalAlpha = 1;
      draw.strokeStyle = draw.fillStyle = hue(verdict.by.at(-1));
      draw.lineWidth = 2;
      const x1 = x(leaves) + part * (x(lands) - x(leaves)), y1 = top + part * (bottom - top);
      line(draw, x(leaves), top, x1, y1);
      if (part < 1) { dot(draw, x1, y1, 4); continue; }
      verdict.by.slice(0, 8).forEach((by, at) => { draw.fillStyle = hue(by); draw.fillRect(x1 - 3, bottom - 7 - 7 * at, 6, 6); });
    }
    draw.restore();
    const label = `Flights: ${text.drafts.length} packets of guesses up, ${text.drafts.filter((each) => each.fate === "lost").length} of them lost, ${text.verdicts.length} verdicts down`;
    if (label !== this.label) canvas.setAttribute("aria-label", (this.label = label));
  }
}

function line(draw, x0, y0, x1, y1) {
  draw.beginPath();
  draw.moveTo(x0, y0);
  draw.lineTo(x1, y1);
  draw.stroke();
}
function dot(draw, x, y, r) {
  draw.beginPath();
  draw.arc(x, y, r, 0, 7);
  draw.fill();
}
function cross(draw, x, y) {
  draw.lineWidth = 1.5;
  line(draw, x - 3, y - 3, x + 3, y + 3);
  line(draw, x - 3, y + 3, x + 3, y - 3);
}

const bytes = (n) => (n < 2000 ? `${Math.round(n)} B` : n < 2e6 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`);
const joules = (j) => (j < 0.1 ? `${(1000 * j).toFixed(1)} mJ` : `${j.toFixed(2)} J`);
const rate = (bps) => (bps == null ? "∞" : bps < 1e6 ? `${Math.round(bps / 1000)} kbit/s` : `${(bps / 1e6).toFixed(bps < 1e7 ? 1 : 0)} Mbit/s`);
function energy(text, up, down) {
  const drafting = text.calls.reduce((sum, call) => sum + (call.to - call.from) / call.texts, 0);
  return drafting * about.energy.draft_w + 8 * (up * about.energy.up_j + down * about.energy.down_j);
}

function explain(token, span) {
  const tip = $("tip");
  const parts = [make("p")];
  parts[0].append(make("b", "", token.by), `: ${about.legend?.[token.by] ?? "proposed at the edge"}`);
  for (const [name, chance] of [["device’s model", token.draft], ["large model", token.target]]) {
    if (chance == null) { parts.push(make("p", "", `${name}: its chance is not known here`)); continue; }
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: 1, value: chance });
    meter.setAttribute("aria-label", name);
    parts.push(make("p", "", `${name} gave it ${(100 * chance).toFixed(chance < 0.1 ? 1 : 0)} %`), meter);
  }
  tip.replaceChildren(...parts);
  tip.hidden = false;
  const box = span.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(innerWidth - tip.offsetWidth - 8, box.left))}px`;
  tip.style.top = `${box.bottom + tip.offsetHeight + 12 > innerHeight ? box.top - tip.offsetHeight - 8 : box.bottom + 8}px`;
}

// ---- Playing what is known: one clock for several views

class Player {
  constructor(root, onTime) {
    Object.assign(this, { root, onTime, t: 0, end: 0, playing: false });
    this.button = make("button", "quiet", "▶");
    this.button.type = "button";
    this.slider = Object.assign(make("input"), { type: "range", min: 0, max: 1000, value: 0 });
    this.slider.setAttribute("aria-label", "Time");
    this.pace = make("select");
    this.pace.setAttribute("aria-label", "Speed");
    for (const [words, value] of [["real time", 1], ["half", 0.5], ["a fifth", 0.2], ["a twentieth", 0.05]]) this.pace.append(new Option(words, value));
    this.clock = make("output");
    root.replaceChildren(this.button, this.slider, this.clock, this.pace);
    this.button.addEventListener("click", () => (this.playing ? this.pause() : this.play(this.t >= this.end ? 0 : this.t)));
    this.slider.addEventListener("input", () => { this.pause(); this.show((this.slider.value / 1000) * this.end); });
    this.pause();
  }
  set(end) { this.end = end; this.root.hidden = false; }
  play(from = 0) {
    this.playing = true;
    this.button.textContent = "❚❚";
    this.button.setAttribute("aria-label", "Pause");
    this.t = from;
    this.last = performance.now();
  }
  pause() {
    this.playing = false;
    this.button.textContent = "▶";
    this.button.setAttribute("aria-label", "Play");
  }
  tick(now) {
    if (!this.playing) return;
    const t = this.t + ((now - this.last) / 1000) * Number(this.pace.value);
    this.last = now;
    this.show(Math.min(t, this.end));
    if (t >= this.end) this.pause();
  }
  show(t) {
    this.t = t;
    this.slider.value = this.end ? (1000 * t) / this.end : 0;
    this.clock.textContent = `${t.toFixed(2)} s`;
    this.onTime(t);
  }
}

// ---- The stream

const headers = () => (key ? { authorization: `Bearer ${key}` } : {});
async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? { headers: headers() } : { method: "POST", headers: { ...headers(), "content-type": "application/json" }, body: JSON.stringify(body) });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error?.message ?? `the server answers ${answer.status}`);
}

async function* eventsOf(answer) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = answer.body.getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
  }
}

async function listen() {
  for (;;) {
    try {
      const answer = await ask("page/events");
      say(`${about.side} · ${about.model}${about.imitated ? " · compute imitated" : ""}`);
      for await (const event of eventsOf(answer)) heardOf(event);
      say("the stream ended; trying again", false);
    } catch (error) {
      say(String(error.message ?? error), false);
    }
    await new Promise((done) => setTimeout(done, 1500));
  }
}
function say(words, well = true) {
  $("status").textContent = words;
  $("status").classList.toggle("off", !well);
}

// ---- Tabs

const ticks = new Map(); // by tab: what to do with each frame
let shown = null;
function tabs(names) {
  const bar = $("tabs");
  bar.hidden = names.length < 2;
  for (const [name, words] of names) {
    const button = make("button", "", words);
    Object.assign(button, { type: "button", id: `tab-${name}` });
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", name);
    button.addEventListener("click", () => open(name));
    button.addEventListener("keydown", (e) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
      if (!by) return;
      const [next] = names[(names.findIndex(([each]) => each === name) + by + names.length) % names.length];
      open(next);
      $(`tab-${next}`).focus();
    });
    bar.append(button);
  }
  open(names[0][0]);
}
function open(name) {
  shown = name;
  for (const button of $("tabs").children) {
    const chosen = button.id === `tab-${name}`;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  for (const section of $("main").children) section.hidden = section.id !== name;
}
let drawn = 0;
function frame(now) {
  if (!document.hidden && now - drawn >= (still.matches ? 250 : 33)) {
    drawn = now;
    ticks.get(shown)?.(now);
  }
  requestAnimationFrame(frame);
}

function legend() {
  for (const [name, meaning] of Object.entries(about.legend ?? {})) {
    const at = { device: "edge", lookup: "edge", draft: "edge", model: "device", copy: "device", edge: "device" }[name];
    if (at && at !== about.side) continue;
    const item = make("li");
    item.append(make("span", `tok ${name}`, name), meaning);
    $("legend").append(item);
  }
}

// ---- The race

function racing() {
  const [one, two, link] = ["one", "two", "link"].map($);
  for (const way of about.ways) for (const select of [one, two]) select.append(new Option(way === "server" ? "server streaming" : way, way));
  one.value = "server";
  two.value = "auto";
  for (const name of Object.keys(LINKS)) link.append(new Option(name, name));
  link.selectedIndex = 1;
  $("prompt").value = PROMPTS[about.chat ? 1 : 0];
  const rtt = () => LINKS[link.value][2] / 1000; // until the lane has measured it
  const views = [one, two].map((select) => new View(select.selectedOptions[0].text, SAYS[select.value] ?? "", { rtt, whole: true }));
  $("lanes").replaceChildren(...views.map((view) => view.root));
  let span = SPAN, names = null, settled = false;
  const player = new Player($("race-player"), (t) => {
    for (const view of views) view.update(t, span);
    if (settled) verdict(t);
  });
  $("race-note").textContent = `Both ways are written for real by this device and its edge, one after the other, each over its own emulated link; then you see both from the same start. ` +
    `Bytes hold everything that is sent, with the large model’s chances that this page asks for. * By a stated model, not measured: ${about.energy.words.split("; cell")[0]}; here without the modem’s ${about.energy.connected_w.toFixed(1)} W for being connected.`;
  const retitle = () => [one, two].forEach((select, at) => {
    views[at].title.firstChild.textContent = select.selectedOptions[0].text;
    views[at].hint.textContent = SAYS[select.value] ?? "";
  });
  one.addEventListener("change", retitle);
  two.addEventListener("change", retitle);

  function verdict(t) {
    const ends = views.map((view) => view.text.tokens.at(-1)?.t ?? Infinity);
    const first = ends[0] <= ends[1] ? 0 : 1, factor = ends[1 - first] / ends[first];
    const done = t >= ends[first];
    views[first].root.classList.toggle("won", done);
    const titles = views.map((view) => view.title.firstChild.textContent);
    const words = $("verdict");
    if (!done) words.textContent = "Watch both from the same start …";
    else words.replaceChildren(make("b", "", titles[first]), factor < 1.03 ? ` and ${titles[1 - first]} are equally fast over this link.` : ` is done first, ${factor.toFixed(2)} times as fast as ${titles[1 - first]} over this emulated link.`);
  }

  $("racing").addEventListener("submit", async (e) => {
    e.preventDefault();
    const button = e.target.querySelector("button");
    button.disabled = true;
    settled = false;
    names = [];
    player.pause();
    player.root.hidden = true;
    retitle();
    views.forEach((view) => view.set(null));
    for (const view of views) view.words.replaceChildren();
    $("verdict").textContent = "Reading the prompt at both ends …";
    const [up, down, ms] = LINKS[link.value];
    try {
      const answer = await ask("page/race", { prompt: $("prompt").value, ways: [one.value, two.value], uplink_mbps: up, downlink_mbps: down, rtt_ms: ms, max_tokens: 80, seed: 1 });
      const { texts: found } = await answer.json();
      await new Promise((done) => setTimeout(done, 150)); // the last events come with the next beat of the stream
      found.forEach((name, at) => views[at].set(texts.get(name)));
      if (views.some((view) => !view.text?.tokens.length)) throw new Error("this page missed the race; start it again");
      span = 1.03 * Math.max(...views.map((view) => view.text.tokens.at(-1).t));
      settled = true;
      player.set(span);
      player.play();
      if (still.matches) { player.pause(); player.show(span); }
    } catch (error) {
      $("verdict").textContent = error.message;
    }
    button.disabled = false;
  });
  heard.add((event) => {
    if (settled || !names || event.event !== "opened") return;
    const lane = /^race\d+\/([01])$/.exec(event.text)?.[1];
    if (lane === undefined) return;
    views[lane].set(texts.get(event.text));
    $("verdict").textContent = `Measuring ${views[lane].title.firstChild.textContent} (${Number(lane) + 1} of 2) …`;
  });
  ticks.set("race", (now) => {
    if (settled) return player.tick(now);
    const end = Math.max(SPAN, ...views.map((view) => view.text?.end ?? 0));
    for (const view of views) view.update(Infinity, end);
  });
}

// ---- Live

function live() {
  const views = new Map(), readings = {};
  let before = null, speed = 0;
  const rtt = () => readings.device_rtt_seconds;
  heard.add((event) => {
    if (event.event !== "readings" || event.text !== undefined) return;
    const at = Date.parse(event.at) / 1000;
    if (before) speed = Math.max(0, ((event.tokens_committed_total ?? 0) - before[1]) / Math.max(0.1, at - before[0]));
    before = [at, event.tokens_committed_total ?? 0];
    Object.assign(readings, event);
    tiles();
  });
  function tiles() {
    const r = readings, last = [...texts.values()].at(-1);
    const found = about.side === "device"
      ? [["tokens a second", speed.toFixed(0)], ["round trip", r.device_rtt_seconds == null ? "–" : `${(1000 * r.device_rtt_seconds).toFixed(1)} ms`],
        ["uplink", r.device_connected ? rate(r.device_uplink_bits_per_second) : "no edge"], ["downlink", r.device_connected ? rate(r.device_downlink_bits_per_second) : "no edge"],
        ["acceptance", r.device_acceptance_ratio == null ? "–" : `${Math.round(100 * r.device_acceptance_ratio)} %`],
        ["texts now", r.texts ?? 0], ["bytes up", bytes(r.sent_bytes_total ?? 0)], ["bytes down", bytes(r.received_bytes_total ?? 0)], ["device’s energy*", joules(r.device_joules ?? 0)]]
      : [["texts now", r.texts ?? 0], ["in the last batch", last?.batch || "–"], ["waiting forwards", r.waiting_forwards ?? "–"], ["connections", r.connections ?? "–"],
        ["bytes in", bytes(r.received_bytes_total ?? 0)], ["bytes out", bytes(r.sent_bytes_total ?? 0)]];
    const box = $("tiles");
    if (box.children.length !== found.length) box.replaceChildren(...found.map(([name]) => {
      const tile = make("div");
      tile.append(make("dt", "", name), make("dd"));
      if (name.endsWith("*")) tile.title = `by a stated model, not measured: ${about.energy?.words ?? ""}`;
      return tile;
    }));
    found.forEach(([, value], at) => { if (box.children[at].lastChild.textContent !== String(value)) box.children[at].lastChild.textContent = value; });
  }
  tiles();
  ticks.set("live", () => {
    const latest = [...texts.values()].slice(-4).reverse();
    $("nothing").hidden = latest.length > 0;
    for (const text of latest) {
      let view = views.get(text);
      if (!view) {
        views.set(text, (view = new View(`text ${text.name.replace(/^(chat)?cmpl-(.{6}).*/, "$2")}`, "", { rtt })));
        view.set(text);
        $("texts").prepend(view.root);
      }
      view.hint.textContent = `${text.scheme}${text.over ? ` · ${text.over === "length" || text.over === "stop" ? "done" : text.over}` : " · being written"}`;
      const wide = view.canvas.clientWidth;
      if (view.seen !== text.changed || view.wide !== wide || !text.over) {
        Object.assign(view, { seen: text.changed, wide });
        const now = text.over || !text.began ? text.end : Math.max(text.end, Math.min(text.end + 1, Date.now() / 1000 - text.began));
        view.update(Infinity, SPAN);
        if (!text.over) view.flights(now, SPAN);
      }
    }
    for (const [text, view] of views) if (!latest.includes(text)) { view.root.remove(); views.delete(text); }
  });
}

// ---- The chat

function chat() {
  const messages = [], bubbles = [];
  if (!about.chat) {
    $("words").placeholder = "Begin a text";
    $("chat-note").textContent = "This model has no chat template: it goes on with what you write.";
  }
  ticks.set("chat", () => { for (const [view, text] of bubbles) if (view.seen !== text.changed) { view.seen = text.changed; view.update(Infinity, Math.max(SPAN, text.end)); } });
  $("words").addEventListener("keydown", (e) => { if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); $("say").requestSubmit(); } });
  $("say").addEventListener("submit", async (e) => {
    e.preventDefault();
    const words = $("words").value, button = e.target.querySelector("button");
    if (!words.trim() || button.disabled) return;
    button.disabled = true;
    $("words").value = "";
    const talk = $("talk");
    talk.append(make("p", "said", words));
    messages.push({ role: "user", content: words });
    const view = new View("answer", "", { whole: true });
    talk.append(view.root);
    let answered = "";
    try {
      const same = { model: "target", stream: true, max_tokens: 300 };
      const answer = about.chat ? await ask("v1/chat/completions", { ...same, messages, logprobs: true }) : await ask("v1/completions", { ...same, prompt: words, max_tokens: 120, logprobs: 0 });
      for await (const chunk of eventsOf(answer)) {
        if (chunk.error) throw new Error(chunk.error.message);
        const text = texts.get(chunk.id);
        if (text && !view.text) { view.set(text); bubbles.push([view, text]); }
        const choice = chunk.choices?.[0];
        answered += choice?.delta?.content ?? choice?.text ?? "";
        if (!view.text) view.words.textContent = answered;
        talk.scrollTop = talk.scrollHeight;
      }
      messages.push({ role: "assistant", content: answered });
    } catch (error) {
      messages.pop();
      view.sums.textContent = error.message;
    }
    button.disabled = false;
    $("words").focus();
  });
}

// ---- Replay

function replay(traces) {
  const views = traces.map((events, at) => {
    const text = new Text(`replay${at}`);
    for (const event of events) text.take(event);
    const view = new View(`a text by ${text.scheme}`, `written at ${String(events[0].at ?? "an unknown time").slice(0, 19).replace("T", " ")}, as the ${text.side} saw it`, { whole: true });
    view.set(text);
    $("replayed").append(view.root);
    return view;
  });
  const span = 1.02 * Math.max(0.05, ...views.map((view) => view.text.end));
  const player = new Player($("replay-player"), (t) => views.forEach((view) => view.update(t, span)));
  player.set(span);
  player.show(span);
  if (!still.matches) player.play();
  let wide = 0;
  ticks.set("replay", (now) => {
    player.tick(now);
    if (wide !== innerWidth) player.show(player.t);
    wide = innerWidth;
  });
  const untimed = views.some((view) => view.text.sums.device_rtt_seconds === undefined);
  const wordless = views.some((view) => view.text.tokens.some((token) => token.piece === null));
  $("replay-note").textContent = [
    untimed ? `A trace here does not hold the round trip: flights are drawn as if it were ${1000 * TRIP_S} ms.` : "",
    wordless ? "A trace holds words only with --trace-tokens." : "",
  ].join(" ").trim();
  say("replay");
}

// ---- The beginning

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  recolour();
}
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme(dark ? "light" : "dark");
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
addEventListener("keydown", (e) => { if (e.key === "Escape") $("tip").hidden = true; });

async function start() {
  recolour();
  const given = $("traces");
  if (given) {
    const held = JSON.parse(given.textContent);
    about = held.about;
    legend();
    tabs([["replay", "Replay"]]);
    replay(held.traces);
    return requestAnimationFrame(frame);
  }
  about = await (await fetch("page/about", { headers: headers() })).json();
  $("key").hidden = !about.key;
  if (about.key) {
    say("a key is needed", false);
    $("refused").textContent = key ? "This key is not the right one." : "";
    $("key").onsubmit = (e) => {
      e.preventDefault();
      sessionStorage.setItem("airdraft-key", (key = $("secret").value));
      start();
    };
    return;
  }
  legend();
  if (about.race) racing();
  live();
  chat();
  tabs([...(about.race ? [["race", "Race"]] : []), ["live", "Live"], ["chat", "Chat"]]);
  requestAnimationFrame(frame);
  await listen();
}
await start().catch((error) => say(String(error.message ?? error), false));
