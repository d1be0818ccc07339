"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const phone = window.matchMedia("(max-width: 640px)");
  const PAPER = 680; // pixels between the margins of A4
  const config = {
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const place = (id) => document.getElementById(`plot-${id}`);

  // "yaxis.tickfont.size" -> layout.yaxis.tickfont.size
  const change = (layout, changes) => {
    for (const [path, value] of Object.entries(changes)) {
      const keys = path.split(".");
      const last = keys.pop();
      let inner = layout;
      for (const key of keys) inner = inner[key] ??= {};
      inner[last] = value;
    }
    return layout;
  };
  const draw = (id, paper) => {
    const figure = figures[id];
    const layout = structuredClone(figure.layout);
    if (paper) change(layout, figure.printed);
    else if (phone.matches) change(layout, figure.narrow);
    // Plotly's own fitting does not come back from paper.
    layout.width = paper ? PAPER : place(id).clientWidth;
    // The axes that were chosen stay chosen.
    const data = structuredClone(figure.data);
    const drawn = Plotly.react(place(id), data, layout, config);
    document.querySelectorAll(`select[data-figure="${id}"]`).forEach(choose);
    return drawn;
  };
  const choose = (list) => {
    const { figure, choice } = list.dataset;
    const [traces, layout] = figures[figure].choices[choice][list.selectedIndex];
    Plotly.update(place(figure), structuredClone(traces), { ...layout });
  };
  let width = 0; // for which all is drawn
  const all = (paper) => {
    width = paper ? 0 : window.innerWidth;
    Object.keys(figures).forEach((id) => draw(id, paper));
  };
  all(false);
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    // Phones change the height, too, when their address bar goes.
    waiting = setTimeout(() => {
      if (width && window.innerWidth !== width) all(false);
    }, 150);
  });
  window.addEventListener("beforeprint", () => all(true));
  window.addEventListener("afterprint", () => all(false));
  document.querySelectorAll("select[data-figure]").forEach((list) =>
    list.addEventListener("change", () => choose(list)));

  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      // Browsers that give pages from files no clipboard: it is selected, to be copied by hand.
      window.getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });

  const table = document.getElementById("all-trials");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const needle = document.getElementById("needle");
  const state = document.getElementById("state");
  const filter = () => {
    const words = needle.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) &&
        (!state.value || row.dataset.state === state.value));
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("count").textContent = `${shown} of ${rows.length} shown`;
  };
  needle.addEventListener("input", filter);
  state.addEventListener("change", filter);
  filter();

  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector(".sort")?.addEventListener("click", () => {
    const numeric = head.classList.contains("num");
    const before = head.getAttribute("aria-sort");
    const first = numeric && column > 0 ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = before === first ? other : first;
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.v;
    const compare = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      return sign * (numeric ? value(a) - value(b) : value(a).localeCompare(value(b)));
    };
    body.append(...rows.sort(compare));
  }));
})();
