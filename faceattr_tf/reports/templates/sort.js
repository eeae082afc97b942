for (const head of document.querySelectorAll("thead th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], place = head.cellIndex;
  const down = head.dataset.sorted === "up";
  for (const other of head.parentNode.cells) delete other.dataset.sorted;
  head.dataset.sorted = down ? "down" : "up";
  const key = row => {
    const text = row.cells[place].textContent.replace(/,/g, "").replace("−", "-");
    const value = parseFloat(text);
    return isNaN(value) ? text : value;
  };
  const rows = [...body.rows].filter(row => row.className !== "mean");
  rows.sort((a, b) => { const x = key(a), y = key(b);
    return (typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1) * (down ? -1 : 1); });
  body.prepend(...rows);
};
