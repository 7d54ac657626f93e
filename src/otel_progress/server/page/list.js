/** Virtual list: creates nodes only for visible rows and reuses them. */

const OVERSCAN = 8;
let made = 0;

export class VirtualList {
  #scroller;
  #runway;
  #create;
  #bind;
  #rows = [];
  #tops = new Float64Array(1);
  #index = new Map(); // key → position
  #shown = new Map(); // key → node
  #pools = new Map(); // kind → unused nodes
  #frame = 0;
  #onDraw;

  /**
   * `create(kind)` creates a node, `bind(node, row)` fills it; rows are {key, kind, height} plus
   * data for `bind`.
   */
  constructor(scroller, runway, { create, bind, onDraw = () => {} }) {
    this.#scroller = scroller;
    this.#runway = runway;
    this.#create = create;
    this.#bind = bind;
    this.#onDraw = onDraw;
    scroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => this.#soon()).observe(scroller);
  }

  get rows() {
    return this.#rows;
  }

  indexOf(key) {
    return this.#index.get(key) ?? -1;
  }

  nodeOf(key) {
    return this.#shown.get(key) ?? null;
  }

  /** Replaces the rows; the row at the top of the view stays there wherever rows are inserted. */
  update(rows) {
    const anchor = this.#anchor();
    this.#rows = rows;
    this.#index.clear();
    if (this.#tops.length < rows.length + 1) this.#tops = new Float64Array(rows.length * 2 + 1);
    for (let i = 0; i < rows.length; i += 1) {
      this.#index.set(rows[i].key, i);
      this.#tops[i + 1] = this.#tops[i] + rows[i].height;
    }
    const height = `${this.#tops[rows.length]}px`;
    if (this.#runway.style.height !== height) this.#runway.style.height = height;
    const place = anchor && this.#index.get(anchor.key);
    if (place !== undefined && place !== null) {
      const top = this.#tops[place] + anchor.offset;
      if (Math.abs(top - this.#scroller.scrollTop) > 1) this.#scroller.scrollTop = top;
    }
    this.#draw();
  }

  /** Scrolls as little as needed to show a row, and creates its node. */
  reveal(key) {
    const place = this.#index.get(key);
    if (place === undefined) return;
    const { scrollTop, clientHeight } = this.#scroller;
    const [top, bottom] = [this.#tops[place], this.#tops[place + 1]];
    if (top < scrollTop) this.#scroller.scrollTop = top;
    else if (bottom > scrollTop + clientHeight) this.#scroller.scrollTop = bottom - clientHeight;
    this.#draw();
  }

  #anchor() {
    const { scrollTop } = this.#scroller;
    // At the top, new rows push the others down.
    if (scrollTop < 4 || !this.#rows.length) return null;
    const place = Math.min(this.#find(scrollTop), this.#rows.length - 1);
    return { key: this.#rows[place].key, offset: scrollTop - this.#tops[place] };
  }

  /** Index of the last row that starts at or above a height. */
  #find(height) {
    let [low, high] = [0, this.#rows.length];
    while (low + 1 < high) {
      const middle = (low + high) >> 1;
      if (this.#tops[middle] <= height) low = middle;
      else high = middle;
    }
    return low;
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const { scrollTop, clientHeight } = this.#scroller;
    const first = Math.max(0, this.#find(scrollTop) - OVERSCAN);
    const last = Math.min(this.#rows.length, this.#find(scrollTop + clientHeight) + 1 + OVERSCAN);
    const wanted = this.#rows.slice(first, last);
    const keys = new Set(wanted.map((row) => row.key));
    for (const [key, node] of this.#shown) if (!keys.has(key)) this.#release(key, node);
    wanted.forEach((row, i) => this.#place(row, this.#tops[first + i]));
    for (const nodes of this.#pools.values()) nodes.forEach((node) => (node.hidden = true));
    this.#onDraw();
  }

  #release(key, node) {
    this.#shown.delete(key);
    this.#pools.get(node.dataset.row).push(node);
  }

  #place(row, top) {
    let node = this.#shown.get(row.key);
    if (node && node.dataset.row !== row.kind) {
      this.#release(row.key, node);
      node = null;
    }
    if (!node) {
      node = this.#take(row.kind);
      this.#shown.set(row.key, node);
    }
    const transform = `translateY(${top}px)`;
    if (node.style.transform !== transform) node.style.transform = transform;
    const height = `${row.height}px`;
    if (node.style.height !== height) node.style.height = height;
    this.#bind(node, row);
  }

  #take(kind) {
    if (!this.#pools.has(kind)) this.#pools.set(kind, []);
    const node = this.#pools.get(kind).pop() ?? this.#make(kind);
    node.hidden = false;
    return node;
  }

  #make(kind) {
    const node = this.#create(kind);
    node.dataset.row = kind;
    node.id = `row-${(made += 1)}`;
    this.#runway.append(node);
    return node;
  }
}
