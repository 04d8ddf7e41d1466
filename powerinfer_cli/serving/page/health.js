// Whether the server is there and has its model.

import { Problem, getJSON } from "./api.js";
import { showState } from "./loading.js";

const WORDS = {
  unknown: "",
  ready: "",
  loading: "Loading the model…",
  gone: "No answer from the server",
  key: "API key needed",
  failed: "The server has a problem",
};
const POLL_MS = 1000;
const LOADING_MS = 300; // then a bar moves

export class Health {
  /** onready: called with /props' answer each time the server has become ready. onchange: at every change.
   *  onkey: the server does not take the key that there is. */
  constructor({ onready, onchange, onkey }) {
    Object.assign(this, { onready, onchange, onkey });
    this.state = "unknown";
    this.asking = false;
  }

  /** Asks until the server is ready. */
  async check() {
    if (this.asking) return;
    this.asking = true;
    while (!(await this.#ask())) {
      const pause = this.state === "loading" ? LOADING_MS : 3 * POLL_MS;
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    this.asking = false;
  }

  /** Whether there is no reason to ask again. */
  async #ask() {
    try {
      await getJSON("health");
      const props = await getJSON("props");
      this.#set("ready");
      this.onready(props);
      return true;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#set(problem.kind in WORDS ? problem.kind : "failed", problem.progress);
      if (problem.kind !== "key") return false;
      this.onkey();
      return true; // a new key starts anew
    }
  }

  #set(state, progress) {
    this.state = state;
    showState(WORDS[state], progress);
    this.onchange();
  }
}
