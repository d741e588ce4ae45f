// Tables of results sort by a click on their head, and are filtered by the bar above them.
"use strict";

const number = (text) => {
  const found = text.trim().replace(/,(?=\d{3})/g, "").match(/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i);
  return found ? Number(found[0]) : NaN;
};

// Tablesort wants the larger first
Tablesort.extend("results", () => true, (a, b) => {
  const difference = number(b) - number(a);
  return Number.isNaN(difference) ? b.localeCompare(a, "en", { numeric: true }) : difference;
});

const cells = (row, column) => row.cells[column].textContent.trim();

const sorted = (table) => {
  table.classList.add("sortable");
  new Tablesort(table);
  table.addEventListener("afterSort", () => {
    // cells without a value stay at the end, whatever the order
    const column = table.querySelector("th[aria-sort]").cellIndex;
    const body = table.tBodies[0];
    [...body.rows].filter((row) => !cells(row, column)).forEach((row) => body.append(row));
  });
};

const filtered = (bar) => {
  const next = bar.nextElementSibling;
  const table = next.matches("table") ? next : next.querySelector("table");
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
  const words = bar.querySelector("input");
  const choices = [...bar.querySelectorAll("select")];
  const means = bar.dataset.means ? bar.dataset.means.split(",").map(Number) : [];
  const count = bar.querySelector("output");
  const update = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const left = rows.filter(([row, text]) => {
      row.hidden =
        !wanted.every((word) => text.includes(word)) ||
        choices.some((choice) => choice.value && cells(row, choice.dataset.column) !== choice.value);
      return !row.hidden;
    });
    const all = rows.length.toLocaleString("en");
    const told = means.map((column) => {
      const logs = left.map(([row]) => Math.log(number(cells(row, column)))).filter(Number.isFinite);
      const mean = Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
      return `, mean ${table.tHead.rows[0].cells[column].textContent} ${logs.length ? mean.toFixed(3) : "-"}`;
    });
    count.textContent = `${left.length === rows.length ? all : `${left.length.toLocaleString("en")} of ${all}`} rows${told.join("")}`;
  };
  words.addEventListener("input", update);
  choices.forEach((choice) => choice.addEventListener("change", update));
  update();
  bar.classList.add("ready");
};

document.querySelectorAll("article table.docutils").forEach(sorted);
document.querySelectorAll(".table-wrapper.scrolls").forEach((box) => (box.tabIndex = 0));
document.querySelectorAll(".results-filter").forEach(filtered);
