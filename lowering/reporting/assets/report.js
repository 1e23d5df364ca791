"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const FIRST_ROWS = 40;
  const FEW_COLUMNS = 6;
  // Beyond this many marks SVG gets slow.
  const SVG_MARKS = 2500;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // --- tables -------------------------------------------------------------------------------
  function shown(value, column) {
    if (value === null) return "–";
    if (column.kind !== "number" || typeof value !== "number") return String(value);
    if (column.digits < 0) return value === 0 ? "0" : value.toExponential(-column.digits - 1);
    return value.toLocaleString("en", {
      minimumFractionDigits: column.digits, maximumFractionDigits: column.digits,
    });
  }

  function compare(a, b) {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function cell(value, column) {
    const text = shown(value, column);
    const attributes = { class: column.kind, "data-label": column.label };
    if (column.kind !== "device") return element("td", attributes, text);
    return element("td", attributes, element("span", { class: text }, text));
  }

  function table(host, { columns, rows }) {
    const state = { by: -1, sign: 1, words: "", device: "", all: rows.length <= FIRST_ROWS };
    const body = element("tbody");
    const more = element("div", { class: "more" });
    const texts = rows.map((row) => row.join("\n").toLowerCase());
    const deviceColumn = columns.findIndex((column) => column.kind === "device");

    function draw() {
      const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
      let found = rows.filter((row, i) =>
        words.every((word) => texts[i].includes(word)) &&
        (!state.device || row[deviceColumn] === state.device));
      if (state.by >= 0) {
        found = [...found].sort((a, b) => state.sign * compare(a[state.by], b[state.by]));
      }
      const part = state.all ? found : found.slice(0, FIRST_ROWS);
      body.replaceChildren(...part.map((row) =>
        element("tr", { class: "folds" }, ...row.map((value, i) => cell(value, columns[i])))));
      more.replaceChildren();
      if (rows.length <= FIRST_ROWS) return;
      more.append(element("span", { class: "note" }, `${part.length} of ${rows.length} rows`));
      if (part.length < found.length) {
        const button = element("button", { type: "button" }, `Show all ${found.length}`);
        button.addEventListener("click", () => { state.all = true; draw(); });
        more.append(button);
      }
    }

    // Long names are cut to one line; a click shows them whole.
    body.addEventListener("click", (event) => {
      if (!String(window.getSelection())) event.target.closest("tr")?.classList.toggle("open");
    });
    const heads = columns.map((column, i) => {
      const button = element("button", { type: "button" }, column.label);
      const head = element("th", { class: column.kind, scope: "col" }, button);
      button.addEventListener("click", () => {
        // Numbers are looked at from the largest, texts from A.
        const first = column.kind === "number" && column.label !== "#" ? -1 : 1;
        state.sign = state.by === i ? -state.sign : first;
        state.by = i;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", state.sign > 0 ? "ascending" : "descending");
        draw();
      });
      return head;
    });
    if (rows.length > 8) {
      const filter = element("div", { class: "filter" });
      const input = element("input", { type: "search", placeholder: "Filter: words in any column", "aria-label": "Filter rows" });
      input.addEventListener("input", () => { state.words = input.value; draw(); });
      filter.append(input);
      const devices = deviceColumn < 0 ? [] : [...new Set(rows.map((row) => row[deviceColumn]))];
      if (devices.length > 1) {
        const select = element("select", { "aria-label": "Device" }, element("option", { value: "" }, "all devices"),
          ...devices.map((device) => element("option", { value: device }, device)));
        select.addEventListener("change", () => { state.device = select.value; draw(); });
        filter.append(select);
      }
      host.append(filter);
    }
    host.append(element("div", { class: "scroll" }, element("table", { class: columns.length <= FEW_COLUMNS ? "small" : "wide" }, element("thead", {}, element("tr", {}, ...heads)), body)), more);
    draw();
  }

  for (const host of document.querySelectorAll("[data-table]")) table(host, data.tables[host.dataset.table]);

  // --- charts -------------------------------------------------------------------------------
  // A canvas knows no CSS variables; SVG keeps them, and so follows the colour scheme and print.
  function resolved(value, style) {
    if (typeof value === "string") {
      return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, key === "data" ? item : resolved(item, style)]));
  }

  async function draw(host, given) {
    let spec = { ...structuredClone(given), config: data.config };
    const marks = spec.data.values.length * (spec.vconcat ? spec.vconcat.length : 1);
    const renderer = marks > SVG_MARKS ? "canvas" : "svg";
    if (renderer === "canvas") spec = resolved(spec, getComputedStyle(document.documentElement));
    // Charts below each other take no width from their container.
    for (const part of spec.vconcat ?? []) part.width = host.clientWidth - spec.usermeta.left - 12;
    await vegaEmbed(host, spec, { actions: false, renderer, tooltip: { theme: "custom" } });
    host.dataset.drawn = renderer;
  }

  const hosts = Object.entries(data.charts).map(([name, spec]) => [document.getElementById(`chart-${name}`), spec]);
  const drawAll = (wanted = () => true) =>
    Promise.all(hosts.filter(([host, spec]) => wanted(host, spec)).map(([host, spec]) => draw(host, spec)));
  const fixed = (host, spec) => Boolean(spec.vconcat);
  drawAll().then(() => { document.documentElement.dataset.ready = "true"; });
  let width = window.innerWidth;
  let timer;
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (window.innerWidth !== width) drawAll(fixed);
      width = window.innerWidth;
    }, 150);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    drawAll((host) => host.dataset.drawn === "canvas"));

  // --- hints on the graphs --------------------------------------------------------------------
  const tip = document.getElementById("tip");
  function showTip(target) {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = target.getBoundingClientRect();
    const room = tip.getBoundingClientRect();
    const below = box.bottom + 8 + room.height < window.innerHeight;
    tip.style.top = `${below ? box.bottom + 8 : Math.max(4, box.top - room.height - 8)}px`;
    tip.style.left = `${Math.min(Math.max(4, box.left), window.innerWidth - room.width - 4)}px`;
  }
  const hideTip = () => { tip.hidden = true; };
  for (const target of document.querySelectorAll("[data-tip]")) {
    for (const event of ["pointerenter", "focus"]) target.addEventListener(event, () => showTip(target));
    for (const event of ["pointerleave", "blur"]) target.addEventListener(event, hideTip);
  }
  window.addEventListener("scroll", hideTip, { passive: true });
})();
