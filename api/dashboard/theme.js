// SPDX-License-Identifier: Apache-2.0
// Light or dark: as the system has it, unless the reader chose. No module, so that it is done before anything is
// painted.
"use strict";
(() => {
  const KEY = "pared.theme",
    root = document.documentElement;
  const known = (theme) => (theme === "light" || theme === "dark" ? theme : "auto");
  const show = (theme) => {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  };
  const stored = () => {
    try {
      return known(localStorage.getItem(KEY));
    } catch {
      return "auto";
    }
  };
  show(stored());
  addEventListener("DOMContentLoaded", () => {
    const box = document.getElementById("theme");
    box.value = stored();
    box.addEventListener("change", () => {
      show(box.value);
      try {
        if (box.value === "auto") localStorage.removeItem(KEY);
        else localStorage.setItem(KEY, box.value);
      } catch {
        /* for this page only */
      }
    });
    addEventListener("storage", (event) => {
      if (event.key === KEY) {
        box.value = known(event.newValue);
        show(box.value);
      }
    });
  });
})();
