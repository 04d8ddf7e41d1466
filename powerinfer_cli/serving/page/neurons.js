// The panel of neurons: per layer those in the GPU's memory (hot) and those in main memory (cold), and how many were
// active; of layers with experts, which of these are hot, and which the last token chose. It is a table, whose bars
// repeat the figures beside them.

import { modelJSON } from "./api.js";
import { $, el } from "./dom.js";

const REFRESH_MS = 1000;

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const figure = (n) => n.toLocaleString("en");
const sum = (layers, key) => layers.reduce((total, layer) => total + layer[key], 0);

/** The mean over neurons; null where no token was computed yet. */
function meanActive(layers) {
  const known = layers.filter(({ active }) => typeof active === "number");
  if (!known.length) return null;
  return known.reduce((total, { active, neurons }) => total + active * neurons, 0) / sum(known, "neurons");
}

const ofExperts = (layers) => layers.filter(({ experts }) => experts).map(({ experts }) => experts);

/** The mean over layers with experts; null where nothing was counted yet. */
function meanHits(experts) {
  const known = experts.filter(({ hit_rate }) => typeof hit_rate === "number");
  return known.length ? known.reduce((total, { hit_rate }) => total + hit_rate, 0) / known.length : null;
}

function expertRows({ layers, uploads, moved_bytes }) {
  const experts = ofExperts(layers);
  if (!experts.length) return [];
  const [all, hot, hits] = [sum(experts, "n_experts"), experts.reduce((n, one) => n + one.hot.length, 0), meanHits(experts)];
  const rows = [
    ["Experts", `${figure(hot)} of ${figure(all)} hot (${percent(hot / all)})`],
    ["Hits", hits === null ? "no token yet" : `${percent(hits)} of those chosen were hot`],
  ];
  if (uploads) rows.push(["Moved", `${figure(uploads)} times, ${figure(Math.round(moved_bytes / 2 ** 20))} MiB`]);
  return rows;
}

function summary(state) {
  const { layers, devices } = state;
  const [neurons, hot, active] = [sum(layers, "neurons"), sum(layers, "hot"), meanActive(layers)];
  const rows = [
    ["Hot", hot ? `${figure(hot)} of ${figure(neurons)} (${percent(hot / neurons)})` : "none: all are in main memory"],
    ["Cold", figure(neurons - hot)],
  ];
  if (active !== null) rows.push(["Active", `${percent(active)} on average`]);
  else if (!ofExperts(layers).length) rows.push(["Active", "no token yet"]);
  rows.push(...expertRows(state));
  if (devices?.length) rows.push(["Devices", devices.join(", ")]);
  const terms = rows.map(([name, value]) => [
    el("dt", { className: name.toLowerCase(), textContent: name }),
    el("dd", { textContent: value }),
  ]);
  return el("dl", {}, ...terms.flat());
}

/** A line of experts: above, hot ones and cold ones; below, those that the last token chose. */
function strip({ n_experts, hot, chosen }) {
  const canvas = el("canvas", { className: "strip", width: n_experts, height: 2, aria: { hidden: "true" } });
  const colours = getComputedStyle(document.documentElement);
  const paint = canvas.getContext("2d");
  const fill = (name, row, places) => {
    paint.fillStyle = colours.getPropertyValue(name);
    for (const place of places) paint.fillRect(place, row, 1, 1);
  };
  fill("--cold", 0, Array(n_experts).keys());
  fill("--hot", 0, hot);
  fill("--text", 1, chosen);
  return canvas;
}

function expertCells({ index, experts }) {
  const { n_experts, hot, hit_rate } = experts;
  return [
    el("th", { scope: "row", textContent: index }),
    el("td", { className: "bars" }, strip(experts)),
    el("td", { textContent: figure(hot.length), title: `${figure(hot.length)} of ${figure(n_experts)} experts are hot` }),
    el("td", { textContent: typeof hit_rate === "number" ? percent(hit_rate) : "–" }),
  ];
}

function bar({ neurons, hot, active }) {
  const box = el("div", { className: "bar", aria: { hidden: "true" } }, el("i", { className: "hot" }), el("i", { className: "active" }));
  box.style.setProperty("--hot-share", `${(100 * hot) / neurons}%`);
  box.style.setProperty("--active-share", `${100 * (active ?? 0)}%`);
  return box;
}

function table({ layers }) {
  const names = ["Layer", "Hot | cold", "Hot", ofExperts(layers).length ? "Hits" : "Active"];
  const head = el("tr", {}, ...names.map((textContent) => el("th", { scope: "col", textContent })));
  const rows = layers.map((layer) => {
    if (layer.experts) return el("tr", {}, ...expertCells(layer));
    const { index, neurons, hot, active } = layer;
    const cells = [
      el("th", { scope: "row", textContent: index }),
      el("td", { className: "bars" }, bar(layer)),
      el("td", { textContent: figure(hot), title: `${figure(hot)} hot and ${figure(neurons - hot)} cold of ${figure(neurons)}` }),
      el("td", { textContent: typeof active === "number" ? percent(active) : "–" }),
    ];
    return el("tr", {}, ...cells);
  });
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
}

function content(state) {
  if (!state.layers?.length) return [el("p", { textContent: "The server does not tell of its neurons." })];
  const lead = ofExperts(state.layers).length
    ? "Hot experts are in the GPU's memory, cold ones in main memory. The marks below a line are those that the last token chose."
    : "Hot neurons are in the GPU's memory, cold ones in main memory. The line at the foot of a bar is the share that was active.";
  return [el("p", { textContent: lead }), summary(state), table(state)];
}

export class NeuronPanel {
  /** writing: whether an answer is being written, so that figures change. onopen: the panel was opened or closed. */
  constructor(writing, onopen) {
    this.writing = writing;
    this.onopen = onopen;
    this.timer = null;
    this.wanted = false; // again, when the timer ends
    $("toggle-neurons").onclick = () => this.toggle($("neurons").hidden);
    $("close-neurons").onclick = () => this.toggle(false);
  }

  toggle(open) {
    $("neurons").hidden = !open;
    $("toggle-neurons").setAttribute("aria-expanded", String(open));
    if (open) {
      $("close-neurons").focus();
      this.refresh();
    } else {
      $("toggle-neurons").focus();
    }
    this.onopen();
  }

  /** Asks whether there is something to show: of a dense model every neuron works for every token. */
  async check() {
    const { sparse } = await modelJSON("internal/neurons").catch(() => ({ sparse: true })); // then the panel says why
    $("toggle-neurons").hidden = !sparse;
    if (!sparse && !$("neurons").hidden) this.toggle(false);
  }

  /** Now, or a second after the last time; then every second while an answer is written, and once after. */
  refresh() {
    this.wanted = true;
    if (this.timer !== null || $("neurons").hidden) return;
    this.wanted = this.writing();
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.wanted) this.refresh();
    }, REFRESH_MS);
    this.#load();
  }

  async #load() {
    const body = $("neurons-body");
    try {
      const state = await modelJSON("internal/neurons");
      const top = body.scrollTop;
      body.replaceChildren(...content(state));
      body.scrollTop = top;
    } catch (problem) {
      body.replaceChildren(el("p", { textContent: problem.message }));
    }
  }
}
