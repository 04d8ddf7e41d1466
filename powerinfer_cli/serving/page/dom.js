// Elements and icons. Text only ever enters the page as text.

const PATHS = {
  menu: "M3 6h18M3 12h18M3 18h18",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  down: "M12 5v14M6 13l6 6 6-6",
  settings: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM8 14.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z",
  theme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  neurons: "M4 5h16v3H4zM4 11h16v3H4zM4 17h16v3H4zM9 5v3M14 11v3M7 17v3",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12l5 5 9-10",
  again: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  save: "M12 4v11M7 10l5 5 5-5M5 20h14",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  if (name === "stop") path.setAttribute("fill", "currentColor");
  svg.append(path);
  return svg;
}

/** An element: properties as they are named in JavaScript, `data` and `aria` as records, then its children. */
export function el(tag, { data = {}, aria = {}, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  node.append(...children);
  return node;
}

/** A button that is an icon only; its label is also its tooltip. */
export function iconButton(name, label, onclick, className = "icon") {
  return el("button", { type: "button", className, title: label, onclick, aria: { label } }, icon(name));
}

/** Gives the buttons of index.html the icons and tooltips that they ask for. */
export function dressButtons() {
  for (const button of document.querySelectorAll("button[data-icon]")) {
    button.append(icon(button.dataset.icon));
    button.title = button.getAttribute("aria-label");
  }
}

/** A button that copies, and says so for a moment. */
export function copyButton(textOf, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    const done = await copy(textOf());
    button.replaceChildren(icon(done ? "check" : "close"));
    button.setAttribute("aria-label", done ? "Copied" : "Copying failed");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // the clipboard's own interface exists only where the page came by HTTPS or locally
  }
}

function copyBySelection(text) {
  const field = el("textarea", { value: text, className: "unseen" });
  const before = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  return done;
}

/** The first `most` characters; a pair of surrogates is one, and stays whole. */
export const beginning = (text, most) => [...text.slice(0, 2 * most)].slice(0, most).join("");

export const $ = (id) => document.getElementById(id);
