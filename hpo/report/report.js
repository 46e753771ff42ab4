// Tables that are sorted by a click on a heading; empty cells stay last.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const number = text => text === "" ? NaN : Number(text);
  const key = (row, column) => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
  function compare(a, b, column) {
    const x = key(a, column), y = key(b, column);
    if (x === "" || y === "") return x === y ? 0 : x === "" ? Infinity : -Infinity;
    const gap = number(x) - number(y);
    return Number.isNaN(gap) ? x.localeCompare(y) : gap;
  }
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending" || (head.ariaSort === null && head.dataset.first === "descending");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const order = compare(a, b, column);
        return Number.isFinite(order) ? (down ? -order : order) : order;
      });
      body.append(...rows);
    });
  });
}
