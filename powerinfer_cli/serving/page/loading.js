// What the server is about, in a word at the top, and how far the loading of its model is, as a bar beside it.

import { $ } from "./dom.js";

/** progress: as the server tells it of a model that loads ({ what, value }), else undefined. */
export function showState(text, progress) {
  const words = progress?.what ? `${text} ${progress.what}` : text;
  if ($("state").textContent !== words) $("state").textContent = words; // it is read aloud
  const value = Number(progress?.value) || 0;
  $("loading").hidden = $("percent").hidden = !progress;
  if (value) $("loading").value = value;
  else $("loading").removeAttribute("value"); // something is done, and nobody knows how much of it
  $("percent").textContent = value ? `${Math.floor(100 * value)} %` : "";
}
