// The data of the page, and what the reader has chosen, kept while the page reloads itself: filters, orders, points.

const DATA = JSON.parse(document.getElementById("data").textContent);

const _place = `mgraph report ${location.pathname}`;
let _kept = {};
try {
  _kept = JSON.parse(sessionStorage.getItem(_place) ?? "{}") ?? {};
} catch {
  _kept = {}; // storage may be refused
}

function recall(key, otherwise) {
  return Object.hasOwn(_kept, key) ? _kept[key] : otherwise;
}

function remember(key, value) {
  _kept[key] = value;
  try {
    sessionStorage.setItem(_place, JSON.stringify(_kept));
  } catch {
    // then it is forgotten at the next reload
  }
}
