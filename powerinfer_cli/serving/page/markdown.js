// A model's text as a page: marked reads it, DOMPurify lets through only what is listed here, and tags that the model
// wrote itself are shown, not obeyed. Images would be requests to strangers, and become links.

import { copyButton, el } from "./dom.js";
import { highlight } from "./highlight.js";
import { Marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";

const TAGS = "p br hr h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong del a table thead tbody tr th td".split(" ");
const RULES = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "align", "start", "class"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["align", "start"], // whose values are no addresses
  RETURN_DOM_FRAGMENT: true,
};

const escape = (text) =>
  text.replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escape(text).trim().replaceAll("\n", "<br>")}</p>` : escape(text)),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

DOMPurify.addHook("uponSanitizeAttribute", (node, data) => {
  if (data.attrName === "class" && !/^language-\S+$/.test(data.attrValue)) data.keepAttr = false;
});

function dressCode(pre) {
  const code = pre.querySelector("code");
  const language = code?.className.replace("language-", "") ?? "";
  const text = pre.textContent;
  if (code) highlight(code, language);
  pre.tabIndex = 0; // long lines scroll, also by keyboard
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  pre.setAttribute("role", "region");
  const head = el("div", { className: "code-head" }, el("span", { textContent: language || "text" }));
  head.append(copyButton(() => text.replace(/\n$/, ""), "Copy code"));
  const figure = el("div", { className: "code" });
  pre.replaceWith(figure);
  figure.append(head, pre);
}

function dress(fragment) {
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const pre of fragment.querySelectorAll("pre")) dressCode(pre);
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", { className: "wide-table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/** Shows a text that grows: only the blocks that changed are made anew, so that selections and scrolling stay. */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.blocks = [];
  }

  update(text) {
    const tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (same < this.blocks.length && same < tokens.length && this.blocks[same].raw === tokens[same].raw) same += 1;
    for (const block of this.blocks.splice(same)) block.node.remove();
    for (const token of tokens.slice(same)) {
      const node = el("div", {}, dress(DOMPurify.sanitize(marked.parser([token]), RULES)));
      this.blocks.push({ raw: token.raw, node });
      this.root.append(node);
    }
  }
}
