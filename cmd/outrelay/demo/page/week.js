// The week as a seismograph would write it: a stroke for each event at its time,
// the longer the stronger.

import { colour, fit } from './paint.js';

const day = 24 * 60 * 60 * 1000;
const names = new Intl.DateTimeFormat('en-GB', { weekday: 'short', day: 'numeric', month: 'short', timeZone: 'UTC' });
const strongest = 6.5; // the magnitude of the longest stroke

export class WeekLine {
  constructor(canvas, from, to) {
    this.context = canvas.getContext('2d');
    this.from = from;
    this.to = to;
    this.quakes = [];
    fit(canvas, (width, height) => this.resize(width, height));
  }

  add(quake) {
    this.quakes.push(quake);
    if (this.width) this.stroke(quake);
  }

  clear() {
    this.quakes = [];
    this.resize(this.width, this.height);
  }

  x(time) {
    return (time - this.from) / (this.to - this.from) * (this.width - 2) + 1;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    const { context } = this;
    context.globalAlpha = 1;
    context.clearRect(0, 0, width, height);
    context.fillStyle = colour('quiet');
    context.strokeStyle = colour('line');
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    for (let midnight = Math.ceil(this.from / day) * day; midnight < this.to; midnight += day) {
      const x = Math.round(this.x(midnight)) + .5;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
      if (width - x > 70) context.fillText(names.format(midnight), x + 6, height - 4);
    }
    context.beginPath();
    context.moveTo(0, this.middle);
    context.lineTo(width, this.middle);
    context.stroke();
    for (const quake of this.quakes) this.stroke(quake);
  }

  get middle() {
    return (this.height - 16) / 2;
  }

  stroke(quake) {
    const { context, middle } = this;
    const length = Math.max(1, middle * Math.min(1, Math.max(0, quake.magnitude) / strongest) ** 1.6);
    context.fillStyle = colour(quake.kind);
    context.globalAlpha = quake.kind === 'earthquake' ? .5 : 1;
    context.fillRect(this.x(quake.time) - .5, middle - length, 1.2, 2 * length);
  }
}
