"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  const isDark = () => (chosen === null ? media.matches : chosen);

  // A colour in a specification is a token, "@series-0" or "@ink/0.2", always under a key that ends in "color".
  function painted(value, theme, key = "") {
    if (Array.isArray(value)) return value.map((item) => painted(item, theme, key));
    if (value !== null && typeof value === "object") {
      const copy = {};
      for (const name of Object.keys(value)) copy[name] = painted(value[name], theme, name);
      return copy;
    }
    if (typeof value !== "string" || !key.endsWith("color") || !value.startsWith("@")) return value;
    const [token, opacity] = value.slice(1).split("/");
    const color = theme[token];
    if (opacity === undefined) return color;
    const alpha = Math.round(Number(opacity) * 255).toString(16).padStart(2, "0");
    return color + alpha;
  }

  async function unpacked() {
    const packed = document.getElementById("library");
    const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const text = await new Response(stream).text();
    packed.remove();
    return text;
  }

  async function loadLibrary() {
    const element = document.createElement("script");
    element.textContent = await unpacked();
    document.head.appendChild(element);
    if (!window.Plotly) throw new Error("plotly.js did not start");
  }

  const config = {
    responsive: true,
    typesetMath: false,
    displaylogo: false,
    // Named one by one: among plotly.js's own are some that send the data to a service.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "ropewalk" },
  };

  // Narrow screens get narrower margins; a legend gets its own lines below the plot instead of some of the plot.
  function fitted(layout, traces, width) {
    const narrow = width < 480;
    const margin = { ...layout.margin };
    if (narrow && margin.l > 48) Object.assign(margin, { l: 48, r: 8 });
    const copy = { ...layout, margin, font: { ...layout.font, size: narrow ? 11 : 12 } };
    if (!layout.showlegend) return copy;
    const room = width - margin.l - margin.r;
    let [rows, used] = [1, 0];
    for (const trace of traces.filter((item) => item.showlegend)) {
      const wide = trace.name.length * 6.6 + 48;
      if (used > 0 && used + wide > room) [rows, used] = [rows + 1, 0];
      used += wide;
    }
    const lines = rows * 20;
    margin.b += lines;
    copy.height = layout.height + lines;
    const plot = copy.height - margin.t - margin.b;
    copy.legend = { ...layout.legend, y: -(layout.margin.b + 4) / plot, font: { ...layout.legend.font, size: 12 } };
    return copy;
  }

  async function draw(element, spec) {
    const theme = isDark() ? data.dark : data.light;
    const layout = fitted(painted(spec.layout, theme), spec.data, element.clientWidth);
    await window.Plotly.react(element, painted(spec.data, theme), layout, config);
    element.dataset.drawn = "yes";
  }

  const pause = () => new Promise((done) => setTimeout(done, 0));

  async function drawAll() {
    for (let number = 0; number < data.figures.length; number += 1) {
      const element = document.getElementById(`figure-${number}`);
      await draw(element, data.figures[number]);
      await pause();
    }
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        const rows = [...original];
        if (next !== "none") rows.sort((a, b) => compared(a.cells[column], b.cells[column], sign));
        body.append(...rows);
      });
    });
  }

  // Empty cells stay at the end whichever way a column is sorted.
  function compared(a, b, sign) {
    const [x, y] = [a.dataset.sort, b.dataset.sort];
    if (x === "" || y === "") return (x === "") - (y === "");
    const [p, q] = [Number(x), Number(y)];
    if (!Number.isNaN(p) && !Number.isNaN(q)) return sign * (p - q);
    return sign * x.localeCompare(y);
  }

  function copier(button) {
    button.addEventListener("click", async () => {
      const source = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        const range = document.createRange();
        range.selectNodeContents(source);
        window.getSelection().removeAllRanges();
        window.getSelection().addRange(range);
        button.textContent = "Selected";
      }
    });
  }

  function themed(redraw) {
    const button = document.getElementById("theme");
    root.dataset.theme = isDark() ? "dark" : "light";
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark()));
    return redraw ? drawAll() : undefined;
  }

  async function start() {
    document.querySelectorAll("table.sortable").forEach(sortable);
    document.querySelectorAll("button.copy").forEach(copier);
    themed(false);
    if (typeof DecompressionStream === "undefined") {
      root.dataset.ready = "no";
      document.querySelectorAll(".plot").forEach((place) => {
        place.textContent = "This browser is too old to draw; the numbers are in the tables.";
      });
      return;
    }
    if (data.figures.length) {
      await loadLibrary();
      await drawAll();
    }
    document.getElementById("theme").addEventListener("click", () => {
      chosen = !isDark();
      themed(true);
    });
    media.addEventListener("change", () => {
      if (chosen === null) themed(true);
    });
    root.dataset.ready = "yes";
  }

  start();
})();
