// An event in words, for people and for screen readers.

const compass = {
  N: 'north', NNE: 'north-northeast', NE: 'northeast', ENE: 'east-northeast',
  E: 'east', ESE: 'east-southeast', SE: 'southeast', SSE: 'south-southeast',
  S: 'south', SSW: 'south-southwest', SW: 'southwest', WSW: 'west-southwest',
  W: 'west', WNW: 'west-northwest', NW: 'northwest', NNW: 'north-northwest',
};

const kinds = {
  'gov.usgs.earthquake': { name: 'earthquake', words: 'earthquake' },
  'gov.usgs.explosion': { name: 'explosion', words: 'explosion' },
  'gov.usgs.quarry-blast': { name: 'quarry-blast', words: 'quarry blast' },
};

const time = new Intl.DateTimeFormat('en-GB', {
  day: 'numeric', month: 'long', year: 'numeric', hour: '2-digit', minute: '2-digit', timeZone: 'UTC',
});

// describe takes a CloudEvent whose data is a GeoJSON feature of the USGS.
export function describe(event) {
  const { mag } = event.data.properties;
  const [longitude, latitude, depth] = event.data.geometry.coordinates;
  const kind = kinds[event.type] ?? { name: 'earthquake', words: 'event' };
  const magnitude = typeof mag === 'number' ? mag : 0;
  return {
    id: event.id,
    kind: kind.name,
    magnitude,
    longitude,
    latitude,
    time: Date.parse(event.time),
    what: typeof mag === 'number' ? `Magnitude ${mag.toFixed(1)} ${kind.words}` : `An ${kind.words} of unknown magnitude`,
    where: place(event.subject),
    when: `${time.format(Date.parse(event.time))} UTC`,
    depth: depth > 0 ? `${Math.round(depth)}\u00a0km\u00a0deep` : '',
  };
}

// place spells out "37km NNE of Amboy, Washington".
function place(subject) {
  const parts = /^(\d+)\s*km ([NESW]{1,3}) of (.+)$/.exec(subject);
  return parts && compass[parts[2]] ? `${parts[1]}\u00a0km ${compass[parts[2]]} of ${parts[3]}` : subject;
}
