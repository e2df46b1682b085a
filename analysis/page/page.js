"use strict";
// Sorting: by what a cell sorts by, else by its text; rows stay within their group. A third click restores the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const bodies = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => !row.classList.contains("group"))]);
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const numeric = heading.classList.contains("number");
      const orders = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
      const order = orders[(orders.indexOf(before) + 1) % 3];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) heading.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const key = (row) => row.cells[column].dataset.sort;
      for (const [body, rows] of bodies) {
        const sorted = order ? [...rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === undefined && y === undefined) {
            return numeric ? 0 : sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
          }
          if (x === undefined || y === undefined) return x === undefined ? 1 : -1; // what is absent goes last
          return sign * (Number(x) - Number(y));
        }) : rows;
        body.append(...sorted);
      }
    });
  });
}
// A tooltip stands below its number, inside the window; Escape closes it.
for (const tip of document.querySelectorAll(".tip")) {
  const text = tip.lastElementChild;
  const place = () => {
    const box = tip.getBoundingClientRect();
    text.style.top = `${box.bottom + 4}px`;
    text.style.left = `${Math.max(8, Math.min(box.left, window.innerWidth - 330))}px`;
  };
  tip.addEventListener("mouseenter", place);
  tip.addEventListener("focus", place);
  tip.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.blur(); });
}
// Charts: drawn as SVG, in the page's ink.
const charts = JSON.parse(document.getElementById("charts").textContent);
for (const [id, spec] of Object.entries(charts)) {
  window.vegaEmbed(`#${id}`, spec, { renderer: "svg", actions: false })
    .catch((error) => { document.getElementById(id).textContent = `The chart cannot be drawn: ${error.message}`; });
}
