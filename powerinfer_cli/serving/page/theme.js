// Runs before anything is painted, so that a page whose reader chose dark does not flash white.
(() => {
  try {
    const theme = localStorage.getItem("powerinfer.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is switched off: the system's choice holds.
  }
})();
