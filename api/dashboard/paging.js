// SPDX-License-Identifier: Apache-2.0
// A list of the server, page by page: each page remembers where it began, so that it can be fetched again alone. And
// the table that shows such a list: what is scrolled to is fetched, what is on its way already is not asked for
// twice.
import { getPageAgain } from "/api.js";
import { VirtualList } from "/virtual_list.js";

const PAGE = 100;
export const narrow = matchMedia("(max-width: 48rem)");

/** Pages of a list, newest first; rows have ids that grow with time. moving(row): it may still change by itself. */
class Pages {
  #path;
  #query;
  #signal;
  #moving;
  #pages = [];
  #loading = null;
  next = null;
  constructor(path, query, signal, moving) {
    this.#path = path;
    this.#query = query;
    this.#signal = signal;
    this.#moving = moving;
  }
  get rows() {
    return this.#pages.flatMap((p) => p.rows);
  }
  get count() {
    return this.#pages.reduce((sum, p) => sum + p.rows.length, 0);
  }
  get whole() {
    return this.#pages.length > 0 && !this.next;
  }

  /** The page behind those there are; null while one is on its way. */
  more() {
    if (this.#loading) return null;
    const cursor = this.next;
    this.#loading = this.#fetch(cursor, null)
      .then(({ etag, page }) => {
        if (this.next !== cursor) return; // the pages before it are others by now
        const known = new Set(this.rows.map((row) => row.id));
        this.#pages.push({ cursor, etag, rows: page.data.filter((row) => !known.has(row.id)) });
        this.next = page.next_cursor;
      })
      .finally(() => {
        this.#loading = null;
      });
    return this.#loading;
  }

  /** The first page, which may be on its way already. */
  first() {
    return this.#loading ?? this.more();
  }

  #fetch(cursor, etag) {
    return getPageAgain(this.#path, { ...this.#query, limit: PAGE, cursor }, etag, this.#signal);
  }

  /** Fetch again what may have changed: the head, and pages in sight with rows that move. Rows that are as they were
   * stay the same objects. */
  async refresh(first, last) {
    const known = new Map(this.rows.map((row) => [row.id, row]));
    const same = (row) => {
      const old = known.get(row.id);
      return old && JSON.stringify(old) === JSON.stringify(row) ? old : row;
    };
    let at = 0;
    for (const [i, one] of [...this.#pages].entries()) {
      if (!this.#pages.includes(one)) return; // started over
      const inSight = at < last && at + one.rows.length > first,
        moving = one.rows.some(this.#moving);
      at += one.rows.length;
      if (i > 0 && !(inSight && moving)) continue;
      const { etag, page } = await this.#fetch(one.cursor, one.etag);
      if (!page) continue;
      one.etag = etag;
      if (i === 0) this.#takeHead(page.data.map(same), page.next_cursor);
      else {
        const others = this.#pages.filter((p) => p !== one).flatMap((p) => p.rows);
        const elsewhere = new Set(others.map((row) => row.id));
        one.rows = page.data.map(same).filter((row) => !elsewhere.has(row.id));
      }
    }
  }

  /** New rows push older ones off the first page: those go to the front of the second. Where rows went, some of the
   * second come. A head of which no row is known may have others between it and the known ones: it starts over. */
  #takeHead(rows, next) {
    const head = this.#pages[0],
      there = new Set(rows.map((row) => row.id));
    if (!this.rows.some((row) => there.has(row.id))) this.#pages = [head];
    const pushed = head.rows.filter((row) => !there.has(row.id) && rows.length && row.id < rows.at(-1).id);
    head.rows = rows;
    if (this.#pages.length === 1) this.next = next;
    for (const one of this.#pages.slice(1))
      if (one.rows.some((row) => there.has(row.id))) one.rows = one.rows.filter((row) => !there.has(row.id));
    if (this.#pages.length > 1 && pushed.length) this.#pages.splice(1, 0, { cursor: next, etag: null, rows: pushed });
  }

  drop(id) {
    for (const one of this.#pages) {
      one.rows = one.rows.filter((row) => row.id !== id);
      one.etag = null;
    }
  }
}

/** The table of such a list in a place of its own: node, open(query), refresh(), drop(id), count. options: those of
 * VirtualList without key and near; path; moving(row); empty(): what stands there when there is no row. */
export class PagedTable {
  node = document.createElement("div");
  #options;
  #list;
  #asked = null;
  #pages = null;
  #sight = [0, PAGE];
  constructor(options) {
    this.#options = options;
    this.#list = new VirtualList({ ...options, key: (row) => row.id, near: (first, last) => this.#near(first, last) });
    narrow.addEventListener("change", () => this.#list.draw(), { signal: options.signal });
  }
  get count() {
    return this.#pages?.count ?? 0;
  }
  get whole() {
    return this.#pages?.whole ?? true;
  }

  #near(first, last) {
    const mine = this.#pages;
    this.#sight = [first, last];
    if (mine?.next && last > mine.count - PAGE / 2)
      mine
        .more()
        ?.then(() => this.#draw(mine))
        .catch(() => {}); // the next scroll asks again
  }

  #draw(mine) {
    if (mine !== this.#pages || this.#options.signal.aborted) return;
    const rows = mine.rows;
    if (!rows.length) return this.node.replaceChildren(this.#options.empty());
    if (this.#list.node.parentNode !== this.node) this.node.replaceChildren(this.#list.node);
    this.#list.set(rows, mine.whole);
  }

  /** Show the list anew, by another query. Where that fails nothing is shown: what stood there answered another. */
  open(query = {}) {
    const { path, signal, moving = () => false } = this.#options;
    this.#asked = new Pages(path, query, signal, moving);
    return this.#show(this.#asked);
  }

  async #show(mine) {
    try {
      await mine.first();
    } catch (problem) {
      if (this.#asked !== mine) return; // another was asked for meanwhile
      this.#pages = null;
      this.node.replaceChildren();
      throw problem;
    }
    if (this.#asked !== mine) return;
    this.#pages = mine;
    this.#draw(mine);
  }

  /** Show what is new; what was asked for and is not shown yet is asked for again. */
  async refresh() {
    const mine = this.#asked;
    if (!mine) return;
    if (mine !== this.#pages) return this.#show(mine);
    await mine.refresh(...this.#sight);
    this.#draw(mine);
  }

  drop(id) {
    this.#pages?.drop(id);
    if (this.#pages) this.#draw(this.#pages);
  }
}
