// The settings and their form. null, or empty text, leaves a value to the server.

import { $ } from "./dom.js";
import { loadSettings, saveChoice, saveSettings } from "./store.js";

const NUMBERS = ["temperature", "top_p", "max_tokens"];
const FIELDS = ["system", ...NUMBERS, "key"];

// model: the one that is asked, where there are several; then all but the key are of that model.
export const settings = { ...loadSettings(), model: "" };

/** Shows the server's own values in the empty fields. */
export function showDefaults(props) {
  const params = props?.default_generation_settings?.params ?? {};
  const most = params.max_tokens ?? params.n_predict;
  $("temperature").placeholder = tidy(params.temperature);
  $("top_p").placeholder = tidy(params.top_p);
  $("max_tokens").placeholder = typeof most === "number" && most < 0 ? "no limit" : tidy(most);
}

/** A float32 as it was written: 0.8, not 0.800000011920929. */
const tidy = (value) => (typeof value === "number" ? String(Number(value.toPrecision(6))) : "");

function fill(values) {
  for (const name of FIELDS) $(name).value = values[name] ?? "";
}

function take() {
  for (const name of NUMBERS) settings[name] = $(name).value === "" ? null : $(name).valueAsNumber;
  settings.system = $("system").value;
  settings.key = $("key").value.trim();
  saveSettings(settings);
}

/** From now on: with the settings that were kept for it. */
export function chooseModel(model) {
  Object.assign(settings, loadSettings(model), { key: settings.key, model });
  saveChoice(model);
}

/** why: shown beside the key. */
export function openSettings(field = "system", why = "") {
  fill(settings);
  $("why-key").textContent = why;
  if (!$("settings").open) $("settings").showModal();
  $(field).focus();
}

/** onsaved: called with the settings in force. */
export function setUpSettings(onsaved) {
  const dialog = $("settings");
  $("open-settings").onclick = () => openSettings();
  $("close-settings").onclick = () => dialog.close();
  $("reset-settings").onclick = () => fill({ key: $("key").value });
  dialog.querySelector("form").onsubmit = () => {
    take();
    onsaved();
  };
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // a click beside it
  };
}
