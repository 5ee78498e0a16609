// The map: the world around the Pacific, and two parts of it enlarged, in
// equirectangular projection. An event flares up as it arrives and stays as a
// faint disc, so that what shakes often glows.

import { colour, fit, layer, put, radius } from './paint.js';

const flare = 2600; // ms for which an event stands out
const settledAlpha = .26;
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;

// Parts of the world in degrees. A longitude may go past 180: the one behind it is
// the same place, 360 less. enlarge is for the discs.
const pacific = { west: -30, east: 330, south: -60, north: 78, enlarge: 1 };
const alaska = { name: 'Alaska', west: -183, east: -129, south: 50, north: 71.5, enlarge: 1.35 };
const american = { name: 'Western United States', west: -127, east: -102, south: 31, north: 49.8, enlarge: 1.35 };

const parallel = (part) => part === pacific ? 1 : Math.cos((part.south + part.north) / 2 * Math.PI / 180);
const aspect = (part) => (part.east - part.west) * parallel(part) / (part.north - part.south);

export class QuakeMap {
  constructor(canvas, world) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.world = world;
    this.settled = []; // events that have flared
    this.flaring = []; // [event, when it arrived], oldest first
    fit(canvas, (width, height) => this.resize(width, height));
  }

  add(quake) {
    this.flaring.push([quake, performance.now()]);
    this.redraw();
  }

  clear() {
    this.settled = [];
    this.flaring = [];
    this.resize(this.width, this.height);
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    this.views = arrange(width, height);
    this.ground = layer(this.canvas);
    for (const view of this.views) this.drawGround(view);
    this.glow = layer(this.canvas);
    this.rare = layer(this.canvas);
    for (const quake of this.settled) this.settle(quake);
    this.draw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
      if (this.flaring.length > 0) this.redraw();
    });
  }

  draw() {
    if (!this.views) return;
    const now = performance.now();
    while (this.flaring.length > 0 && now - this.flaring[0][1] > flare) {
      const [quake] = this.flaring.shift();
      this.settled.push(quake);
      this.settle(quake);
    }
    const { context } = this;
    context.clearRect(0, 0, this.width, this.height);
    put(context, this.ground);
    put(context, this.glow);
    put(context, this.rare);
    for (const [quake, since] of this.flaring) {
      for (const view of this.views) this.drawFlare(view, quake, (now - since) / flare);
    }
  }

  drawGround(view) {
    const { ground } = this;
    ground.save();
    ground.beginPath();
    ground.roundRect(view.x, view.y, view.width, view.height, 6);
    ground.fillStyle = colour('raised');
    ground.fill();
    ground.clip();

    // the same land once in each turn around the globe that the view touches
    const trace = (lines, closed) => {
      ground.beginPath();
      for (const turn of [-360, 0, 360]) {
        for (const line of lines) {
          if (!touches(view.part, line, turn)) continue;
          let pen = false;
          line.forEach(([longitude, latitude], i) => {
            const [x, y] = view.at(longitude + turn, latitude);
            // a coast that runs along the date line is only where the file is cut
            const cut = !closed && i > 0 && onSeam(longitude) && onSeam(line[i - 1][0]);
            if (pen && !cut) ground.lineTo(x, y);
            else ground.moveTo(x, y);
            pen = true;
          });
          if (closed) ground.closePath();
        }
      }
    };
    trace(this.world.rings, true);
    ground.fillStyle = colour('land');
    ground.fill('evenodd');
    ground.lineJoin = 'round';
    ground.lineWidth = .6;
    trace(this.world.borders, false);
    ground.strokeStyle = colour('border');
    ground.stroke();
    trace(this.world.coasts, false);
    ground.strokeStyle = colour('coast');
    ground.stroke();

    if (view.part.name) {
      ground.fillStyle = colour('quiet');
      ground.font = `12px ${getComputedStyle(document.body).fontFamily}`;
      ground.textAlign = 'right';
      ground.fillText(view.part.name, view.x + view.width - 10, view.y + 19);
    } else { // show what the other views enlarge
      ground.strokeStyle = colour('quiet');
      ground.globalAlpha = .35;
      for (const { part } of this.views) {
        if (!part.name) continue;
        const [x, y] = view.at(part.west + 360, part.north);
        const [right, bottom] = view.at(part.east + 360, part.south);
        ground.strokeRect(x, y, right - x, bottom - y);
      }
    }
    ground.restore();
  }

  // settle leaves an event's disc on the map.
  settle(quake) {
    const context = quake.kind === 'earthquake' ? this.glow : this.rare;
    for (const view of this.views) {
      const size = radius(quake.magnitude) * view.discs;
      view.each(context, quake, (x, y) => {
        this.disc(context, x, y, size, quake, settledAlpha);
        if (context === this.rare) return;
        // where many lie on each other their colour alone would end in one flat patch
        context.globalCompositeOperation = 'lighter';
        this.disc(context, x, y, size * .7, quake, .05);
      });
    }
  }

  drawFlare(view, quake, age) {
    const { context } = this;
    const size = radius(quake.magnitude) * view.discs;
    view.each(context, quake, (x, y) => {
      this.disc(context, x, y, size, quake, 1 - (1 - settledAlpha) * age);
      if (still) return;
      const spread = 1 - (1 - age) ** 3;
      context.globalAlpha = .75 * (1 - age) ** 1.5;
      context.lineWidth = 1.2;
      context.beginPath();
      context.arc(x, y, size + (8 + 2.2 * size) * spread, 0, 2 * Math.PI);
      context.stroke();
    });
  }

  disc(context, x, y, size, quake, alpha) {
    const rare = quake.kind !== 'earthquake'; // few, small, and not to be missed
    context.fillStyle = context.strokeStyle = colours[quake.kind];
    context.globalAlpha = rare ? Math.max(alpha, .75) : alpha;
    context.beginPath();
    context.arc(x, y, rare ? Math.max(size, 2.2) : size, 0, 2 * Math.PI);
    context.fill();
  }
}

const colours = Object.fromEntries(['earthquake', 'explosion', 'quarry-blast'].map((kind) => [kind, colour(kind)]));

const onSeam = (longitude) => Math.abs(longitude) > 179.9;

function touches(part, line, turn) {
  let west = Infinity;
  let east = -Infinity;
  for (const [longitude] of line) {
    west = Math.min(west, longitude + turn);
    east = Math.max(east, longitude + turn);
  }
  return east >= part.west && west <= part.east;
}

// arrange lays the views out: the world above, the other two beneath side by side.
function arrange(width, height) {
  const gap = 8;
  const above = Math.min(width / aspect(pacific), height * .57);
  const below = height - above - gap;
  const share = aspect(alaska) / (aspect(alaska) + aspect(american));
  const left = (width - gap) * share;
  const discs = Math.sqrt(Math.min(1.3, Math.max(.4, width / 900)));
  return [
    new View(pacific, discs, 0, 0, width, above),
    new View(alaska, discs, 0, above + gap, left, below),
    new View(american, discs, left + gap, above + gap, width - gap - left, below),
  ];
}

// A View is a part of the world on a rectangle of the canvas. Where the two differ
// in shape it shows more of the world around the part; but no place twice, so the
// whole world loses some of the north and south instead.
class View {
  constructor(part, discs, x, y, width, height) {
    Object.assign(this, { x, y, width, height });
    this.discs = part.enlarge * discs;
    const narrow = parallel(part);
    const wide = width / ((part.east - part.west) * narrow);
    const scale = part === pacific ? wide : Math.min(wide, height / (part.north - part.south));
    const moreX = (width / scale / narrow - (part.east - part.west)) / 2;
    const moreY = (height / scale - (part.north - part.south)) / 2;
    this.part = {
      ...part, west: part.west - moreX, east: part.east + moreX, south: part.south - moreY, north: part.north + moreY,
    };
    this.scaleX = scale * narrow;
    this.scaleY = scale;
  }

  at(longitude, latitude) {
    return [this.x + (longitude - this.part.west) * this.scaleX, this.y + (this.part.north - latitude) * this.scaleY];
  }

  // each calls draw wherever the event lies on the view, which clips it.
  each(context, quake, draw) {
    const margin = 12 / this.scaleX;
    for (const turn of [-360, 0, 360]) {
      const longitude = quake.longitude + turn;
      if (longitude < this.part.west - margin || longitude > this.part.east + margin) continue;
      const [x, y] = this.at(longitude, quake.latitude);
      if (y < this.y - 12 || y > this.y + this.height + 12) continue;
      context.save();
      context.beginPath();
      context.rect(this.x, this.y, this.width, this.height);
      context.clip();
      draw(x, y);
      context.restore();
    }
  }
}
