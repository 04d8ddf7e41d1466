// The conversation follows its end only while its reader is there.

const NEAR = 48; // px

export class Scroller {
  /** ends: a button that leads to the end, shown while the reader is elsewhere. */
  constructor(frame, toEnd) {
    this.frame = frame;
    this.toEnd = toEnd;
    this.following = true;
    frame.addEventListener("scroll", () => this.#look(), { passive: true });
    new ResizeObserver(() => this.follow()).observe(frame);
    toEnd.onclick = () => this.jump();
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.frame;
    this.following = scrollHeight - scrollTop - clientHeight < NEAR;
    this.toEnd.hidden = this.following;
  }

  /** The text has grown. */
  follow() {
    if (this.following) this.frame.scrollTop = this.frame.scrollHeight;
    else this.#look();
  }

  jump() {
    this.following = true;
    this.toEnd.hidden = true;
    this.follow();
  }
}
