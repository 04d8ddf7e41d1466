// The models of a router: which there are, how each is, and which one is asked. A server of one model has none of this.

import { getJSON } from "./api.js";
import { $, el } from "./dom.js";
import { showState } from "./loading.js";
import { chooseModel, settings } from "./settings.js";
import { loadChoice } from "./store.js";

const POLL_MS = 2000;
const LOADING_MS = 400; // then a bar moves
const WORDS = { loaded: "loaded", loading: "loading…", sleeping: "asleep", unloaded: "" };

function size(bytes, digits = 3) {
  if (!bytes) return "";
  const unit = bytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${Number((bytes / unit[0]).toPrecision(digits))} ${unit[1]}`;
}

/** "NAME · 98.4 MB · loaded, 310 MB of memory" */
function label({ id, size: bytes, memory, status }) {
  const state = status.failed ? "does not load" : WORDS[status.value] ?? status.value;
  const used = state && memory ? `${state}, ${size(memory, 2)} of memory` : state;
  return [id, size(bytes), used].filter(Boolean).join(" · ");
}

/** The one of last time, else one that is loaded. */
function preferred(models) {
  const last = loadChoice();
  return models.find(({ id }) => id === last) ?? models.find(({ status }) => status.value === "loaded") ?? models[0];
}

export class Models {
  /** onchoice: another model is asked from now on. */
  constructor(onchoice) {
    this.onchoice = onchoice;
    this.timer = null;
    $("models").onchange = () => this.#choose($("models").value);
  }

  /** Shows the list, and keeps it true while somebody looks. */
  async begin() {
    $("model").hidden = true;
    $("models").hidden = false;
    await this.refresh();
    this.#later();
  }

  /** A message was sent, or an answer has ended: the model may be loading for it. */
  look() {
    if (this.timer !== null && this.state !== "loaded") this.#later(LOADING_MS);
  }

  #later(pause = this.state === "loading" ? LOADING_MS : POLL_MS) {
    clearTimeout(this.timer);
    this.timer = setTimeout(async () => {
      if (!document.hidden) await this.refresh();
      this.#later();
    }, pause);
  }

  async refresh() {
    const { data } = await getJSON("v1/models").catch(() => ({ data: null })); // health says why
    if (!data) return;
    const select = $("models");
    const known = data.some(({ id }) => id === settings.model);
    if (!known && data.length) this.#choose(preferred(data).id);
    const labels = data.map(label);
    if (labels.join() !== this.shown) {
      this.shown = labels.join();
      select.replaceChildren(...data.map(({ id }, i) => el("option", { value: id, textContent: labels[i] })));
    }
    select.value = settings.model;
    const { status = {} } = data.find(({ id }) => id === settings.model) ?? {};
    select.title = status.error ?? "The model that answers";
    this.#state(status.value, status.progress);
  }

  #state(value, progress) {
    showState(value === "loading" ? "Loading the model…" : "", progress);
    const began = value === "loaded" && this.state !== value;
    this.state = value;
    if (began) this.onchoice(); // its defaults can be asked for now
  }

  #choose(id) {
    chooseModel(id);
    this.state = undefined;
    document.title = `${id} – PowerInfer`;
    this.onchoice();
    this.refresh();
  }
}
