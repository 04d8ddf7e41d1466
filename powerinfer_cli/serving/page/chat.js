// The conversation that is shown, and the answers that are being written, here or in conversations left meanwhile.

import { Answer } from "./answer.js";
import { $, beginning, el } from "./dom.js";
import { MessageView } from "./message.js";
import { Scroller } from "./scrolling.js";
import { newMessage, saveConversation } from "./store.js";

const SAMPLES = [
  "Tell me a story about a fox who is afraid of the dark.",
  "Explain in three sentences why the sky is blue.",
  "Write a polite letter that cancels a subscription.",
];
const SAVE_MS = 1000; // while an answer grows

export class Chat {
  /** onchange: a conversation was changed or its answer began or ended. ready: whether the server may be asked. */
  constructor({ onchange, onunsaved, ready }) {
    Object.assign(this, { onchange, onunsaved, ready });
    this.answers = new Map(); // conversation id -> Answer
    this.views = [];
    this.scroller = new Scroller($("scroller"), $("to-end"));
    this.input = $("input");
    $("composer").onsubmit = (event) => {
      event.preventDefault();
      this.send();
    };
    $("stop").onclick = () => this.stop();
    addEventListener("pagehide", () => this.keepDraft());
    this.input.oninput = () => this.#typed();
    this.input.onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    };
  }

  get busy() {
    return this.answers.size > 0;
  }

  show(conversation) {
    if (this.conversation && !this.conversation.deleted) this.keepDraft();
    this.conversation = conversation;
    this.input.value = conversation.draft;
    this.#fit();
    $("log").setAttribute("aria-live", "off"); // what was said before is not news
    this.paint();
    this.scroller.jump();
    setTimeout(() => $("log").setAttribute("aria-live", "polite"), 100);
  }

  /** All of the conversation anew. */
  paint() {
    const { messages } = this.conversation;
    this.views = messages.map((message, index) => new MessageView(message, this.#actions(message, index)));
    $("log").replaceChildren(...(messages.length ? this.views.map((view) => view.root) : [this.#welcome()]));
    for (const view of this.views) view.onpaint = () => this.scroller.follow();
    this.scroller.follow();
    this.paintControls();
  }

  paintControls() {
    const writing = this.answers.has(this.conversation.id);
    const had = document.activeElement;
    $("send").hidden = writing;
    $("stop").hidden = !writing;
    $("send").disabled = !this.ready() || !this.input.value.trim();
    if (had === $("stop") && !writing) this.input.focus(); // focus does not vanish with the button
  }

  #welcome() {
    const text = "Write a message below to begin, or take one of these.";
    const samples = SAMPLES.map((sample) => {
      const take = () => {
        this.input.value = sample;
        this.#typed();
        this.input.focus();
      };
      return el("button", { type: "button", textContent: sample, onclick: take });
    });
    const head = [el("h2", { textContent: "New chat" }), el("p", { textContent: text })];
    return el("div", { className: "welcome" }, ...head, el("div", { className: "samples" }, ...samples));
  }

  #actions(message, index) {
    const { messages } = this.conversation;
    if (this.answers.has(this.conversation.id)) return {};
    const last = messages.length - 1;
    if (message.role === "assistant") return index === last ? { retry: () => this.regenerate() } : {};
    const isLast = index >= last - 1 && !messages.slice(index + 1).some(({ role }) => role === "user");
    const retry = index === last ? () => this.regenerate() : undefined; // the page was closed before the answer began
    return isLast ? { retry, edit: (text) => this.#edit(index, text) } : {};
  }

  send() {
    const content = this.input.value;
    if (!content.trim() || !this.ready() || this.answers.has(this.conversation.id)) return;
    this.conversation.messages.push(newMessage("user", content));
    this.conversation.title ||= beginning(content.trim().replace(/\s+/g, " "), 60);
    this.conversation.draft = this.input.value = "";
    this.#fit();
    this.#answer();
  }

  regenerate() {
    const { messages } = this.conversation;
    if (messages.at(-1)?.role === "assistant") messages.pop();
    this.#answer();
    this.input.focus();
  }

  #edit(index, text) {
    this.conversation.messages.splice(index, Infinity, newMessage("user", text));
    this.#answer();
    this.input.focus();
  }

  stop() {
    this.answers.get(this.conversation.id)?.stop();
  }

  /** Ends the answer of a conversation that goes away. */
  forget(conversation) {
    this.answers.get(conversation.id)?.stop();
  }

  #answer() {
    const { conversation } = this;
    const history = [...conversation.messages];
    const message = newMessage("assistant");
    conversation.messages.push(message);
    let saved = 0;
    const answer = new Answer(history, message, () => {
      this.#viewOf(message)?.update();
      if (Date.now() - saved < SAVE_MS) return;
      saved = Date.now();
      this.#save(conversation);
    });
    this.answers.set(conversation.id, answer);
    this.#save(conversation);
    this.paint();
    this.scroller.jump();
    this.onchange();
    answer.done.then(() => this.#ended(conversation));
  }

  #ended(conversation) {
    this.answers.delete(conversation.id);
    this.#save(conversation);
    if (conversation === this.conversation) this.#paintEnd();
    this.onchange();
  }

  /** The last two messages get their buttons; the rest, and what is selected in it, stays. */
  #paintEnd() {
    const { messages } = this.conversation;
    for (const view of this.views.slice(-2)) {
      view.actions = this.#actions(view.message, messages.indexOf(view.message));
      view.painted = null;
      view.update();
    }
    this.paintControls();
  }

  #viewOf(message) {
    return this.views.find((view) => view.message === message);
  }

  #save(conversation) {
    if (conversation.deleted) return;
    conversation.changed = Date.now();
    if (!saveConversation(conversation)) this.onunsaved();
  }

  #typed() {
    this.#fit();
    this.paintControls();
    this.conversation.draft = this.input.value;
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(() => this.keepDraft(), 300);
  }

  keepDraft() {
    clearTimeout(this.draftTimer);
    const { draft, messages } = this.conversation;
    if ((draft || messages.length) && !saveConversation(this.conversation)) this.onunsaved();
  }

  #fit() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
