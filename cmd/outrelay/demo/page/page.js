// The page: three streams over one WebSocket, drawn and counted as their events
// arrive.

import { QuakeMap } from './map.js';
import { session } from './outrelay.js';
import { WeekLine } from './week.js';
import { describe } from './words.js';
import { world } from './world.js';

const element = (id) => document.getElementById(id);

const read = async (name) => {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json();
};

const [settings, topology] = await Promise.all([read('settings.json'), read('world-110m.json')]);
const map = new QuakeMap(element('map'), world(topology));
const week = new WeekLine(element('week'), Date.parse(settings.from), Date.parse(settings.to));

// calmly runs show at once, then at most once in so many ms, always with the newest.
function calmly(ms, show) {
  let next;
  let timer;
  const run = () => {
    const what = next;
    timer = undefined;
    if (what === undefined) return;
    next = undefined;
    timer = setTimeout(run, ms);
    show(what);
  };
  return (what) => {
    next = what;
    if (timer === undefined) run();
  };
}

function write(tag, className, text) {
  const e = document.createElement(tag);
  e.className = className;
  e.textContent = text;
  return e;
}

const showNewest = calmly(700, (quake) => {
  element('newest').dataset.id = quake.id;
  element('newest').replaceChildren(
    write('p', `what ${quake.kind}`, quake.what),
    write('p', 'where', quake.where),
    write('p', 'when', [quake.when, quake.depth].filter(Boolean).join(', ')),
  );
});

// A screen reader hears of it now and then; every event would be a babble.
const speakNewest = calmly(20_000, (quake) => {
  element('spoken').textContent = `${quake.what}, ${quake.where}. ${counts.all} so far.`;
});

let strongest = [];

function rank(quake) {
  if (strongest.length === 3 && quake.magnitude <= strongest[2].magnitude) return;
  strongest = [...strongest, quake].sort((a, b) => b.magnitude - a.magnitude).slice(0, 3);
  element('strongest').replaceChildren(...strongest.map((q) => {
    const item = document.createElement('li');
    item.append(write('span', 'magnitude', q.magnitude.toFixed(1)), ' ', write('span', '', q.where));
    return item;
  }));
}

const counts = { all: 0, ak: 0, explosions: 0 };
const standing = { all: false, ak: false, explosions: false };

function count(share, n) {
  counts[share] = n;
  element(`count-${share}`).textContent = n;
}

// Connected is said once all three are, reconnecting once any is not any more.
function showState(share, connected) {
  standing[share] = connected;
  const state = connected ? 'connected' : 'reconnecting';
  if (element('state').textContent === state) return;
  if (connected && !Object.values(standing).every(Boolean)) return;
  element('state').textContent = state;
  element('lamp').className = state;
}

function missed({ reason, missed: n }) {
  element('notice').hidden = false;
  element('notice').textContent = reason === 'reset'
    ? 'The gateway has another log now; counting from its beginning.'
    : `${n ?? 'Some'} events were missed (${reason}).`;
}

const gateway = session(settings.gateway);

function subscribe(share, topicFilter, options, listener) {
  gateway.subscribe(topicFilter, {
    from: 'earliest',
    ...options,
    onEvent(event) {
      count(share, counts[share] + 1);
      listener?.event(event);
    },
    onState: ({ phase }) => showState(share, phase === 'connected'),
    onGap(gap) {
      missed(gap);
      if (gap.reason !== 'reset') return;
      count(share, 0); // everything comes again
      listener?.clear();
    },
  });
}

subscribe('all', 'quakes/**', {}, {
  event(event) {
    const quake = describe(event);
    map.add(quake);
    week.add(quake);
    rank(quake);
    showNewest(quake);
    speakNewest(quake);
  },
  clear() {
    map.clear();
    week.clear();
    strongest = [];
    element('strongest').replaceChildren();
  },
});
subscribe('ak', 'quakes/ak', {});
subscribe('explosions', 'quakes/**', { filter: { exact: { type: 'gov.usgs.explosion' } } });
