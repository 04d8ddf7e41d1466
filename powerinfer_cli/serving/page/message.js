// How one message looks, and how it is changed while it grows.

import { copyButton, el, iconButton } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { openSettings } from "./settings.js";

const one = (n) => (n >= 100 ? n.toFixed(0) : n.toFixed(1));
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** "128 tokens, 24.3 tokens/s, 5.3 s, prompt 512 tokens (480 from the cache)". */
function describe({ state, stats, progress, content, reasoning }) {
  if (state === "streaming" && !content && !reasoning) {
    if (progress?.total) return `Reading the prompt, ${Math.round((100 * progress.processed) / progress.total)} %`;
    if (!stats?.tokens) return "Waiting";
  }
  const parts = [];
  if (stats?.tokens !== undefined) {
    parts.push(count(stats.tokens, "token"));
    if (stats.perSecond > 0) parts.push(`${one(stats.perSecond)} tokens/s`);
  }
  if (stats?.seconds !== undefined) parts.push(`${one(stats.seconds)} s`);
  if (state !== "streaming" && stats?.promptRead !== undefined) parts.push(promptPart(stats));
  if (state === "stopped") parts.push("stopped");
  if (state === "cut") parts.push("interrupted");
  if (state === "done" && stats?.finish === "length") parts.push("ended at the limit of tokens");
  return parts.join(" · ");
}

function promptPart({ promptRead, promptCached = 0 }) {
  const prompt = `prompt ${count(promptRead + promptCached, "token")}`;
  return promptCached ? `${prompt}, ${promptCached} from the cache` : prompt;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not complete yet, or not JSON
  }
}

function toolCall(call) {
  const text = pretty(call.function.arguments ?? "");
  const head = el("div", { className: "code-head" }, el("span", { textContent: `Tool call: ${call.function.name}` }));
  head.append(copyButton(() => text, "Copy arguments"));
  return el("div", { className: "code" }, head, el("pre", { tabIndex: 0 }, el("code", { textContent: text })));
}

/** actions: {retry, edit(text)}, each present where it may be done. */
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.own = message.role === "user";
    this.body = el("div", { className: this.own ? "said" : "prose" });
    this.extra = el("div");
    this.stats = el("span", { className: "stats" });
    this.buttons = el("span", { className: "buttons" });
    this.thoughts = el("div", { className: "thoughts" });
    this.details = el("details", { hidden: true }, el("summary"), this.thoughts);
    const foot = el("footer", {}, this.stats, this.buttons);
    const parts = this.own ? [this.body, foot] : [this.details, this.body, this.extra, foot];
    this.root = el("article", { className: message.role, aria: { label: this.own ? "You" : "Answer" } }, ...parts);
    this.markdown = new MarkdownView(this.body);
    this.waiting = false;
    this.paint();
  }

  /** The message has changed; shown with the next frame. */
  update() {
    if (this.waiting) return;
    this.waiting = true;
    const paint = () => {
      this.waiting = false;
      this.paint();
      this.onpaint?.();
    };
    if (document.hidden) setTimeout(paint, 100); // no frames are drawn in the background
    else requestAnimationFrame(paint);
  }

  paint() {
    const { message } = this;
    const busy = message.state === "streaming";
    this.root.setAttribute("aria-busy", String(busy));
    this.root.classList.toggle("streaming", busy);
    this.stats.textContent = this.own ? "" : describe(message);
    if (this.own) this.body.textContent = message.content;
    else this.#paintAnswer(message, busy);
    if (this.painted !== message.state) this.#paintButtons(message, busy);
    this.painted = message.state;
  }

  #paintAnswer(message, busy) {
    this.markdown.update(message.content);
    this.details.hidden = !message.reasoning;
    this.details.firstChild.textContent = busy && !message.content ? "Thinking…" : "Thoughts";
    this.thoughts.textContent = message.reasoning;
    this.extra.replaceChildren(...message.tool_calls.filter(Boolean).map(toolCall));
    if (message.problem) this.extra.append(this.#problem(message.problem));
  }

  #problem({ kind, text }) {
    const box = el("div", { className: "problem", role: "alert" }, el("p", { textContent: text }));
    const { retry } = this.actions;
    if (kind === "key") {
      box.append(el("button", { type: "button", textContent: "Enter the key", onclick: () => openSettings("key") }));
    }
    if (retry) box.append(el("button", { type: "button", className: "retry", textContent: "Try again", onclick: retry }));
    return box;
  }

  #paintButtons({ content, problem }, busy) {
    const { retry, edit } = this.actions;
    const buttons = [];
    if (!busy && content) buttons.push(copyButton(() => this.message.content, "Copy message"));
    if (!busy && retry && !problem) buttons.push(iconButton("again", "Answer again", retry));
    if (edit) buttons.push(iconButton("edit", "Edit message", () => this.#edit(edit)));
    this.buttons.replaceChildren(...buttons);
  }

  #edit(edit) {
    const field = el("textarea", { value: this.message.content, rows: 4, aria: { label: "Edit message" } });
    const close = () => {
      form.replaceWith(this.body);
      this.root.classList.remove("editing");
    };
    const cancel = el("button", { type: "button", textContent: "Cancel", onclick: close });
    const send = el("button", { type: "submit", className: "primary", textContent: "Send" });
    const form = el("form", { className: "edit" }, field, el("div", { className: "foot" }, cancel, send));
    form.onsubmit = (event) => {
      event.preventDefault();
      if (field.value.trim()) edit(field.value);
    };
    form.onkeydown = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    };
    this.root.classList.add("editing");
    this.body.replaceWith(form);
    field.focus();
  }
}
