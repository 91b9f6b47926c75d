/** Elements of the page: of HTML, of SVG, tables, and links to Airflow's own pages. */
const SVG = "http://www.w3.org/2000/svg";

export const inFrame = window.parent !== window;

/** An element with attributes and children. A text becomes a text, never markup. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Likewise, of an SVG. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A table of rows of texts and elements. */
export function tableWith(head, rows) {
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  const top = element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)));
  return element(
    "div",
    { class: "scroll" },
    element("table", {}, element("thead", {}, top), element("tbody", {}, ...body)),
  );
}

/** A link to a page of Airflow. */
export function linkTo(url, text) {
  const link = element("a", { href: url }, text);
  link.addEventListener("click", (event) => {
    if (!inFrame) return;
    event.preventDefault();
    visit(url);
  });
  return link;
}

/** A frame of Airflow's may not open a page by itself, but being of the same origin it can click a link around it. */
export function visit(url) {
  if (!inFrame) return location.assign(url);
  const link = parent.document.createElement("a");
  link.href = url;
  parent.document.body.append(link);
  link.click();
  link.remove();
}
