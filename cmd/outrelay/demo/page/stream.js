// One subscription over one WebSocket, which heals by itself: it connects again
// with full jitter and goes on after the last event it had.

const firstWait = 500; // ms; the longest wait before the first retry, doubled with each
const longestWait = 8000;
const silence = 60_000; // the gateway says where it is every 25 s when there is nothing else

// The gateway's own words on a stream come from this source; no event does.
const gatewaySource = '/outrelay';

export class Stream {
  // address is the gateway's, as ws://host:port; parameters are those of the
  // stream beside where it begins, such as filter. The listener has
  //   event(event)      each event, once and in order
  //   state(connected)  whether the stream stands
  //   gap(data)         events that will not come: {reason, missed}
  constructor(address, topicFilter, parameters, listener) {
    this.address = `${address}/topics/${topicFilter}`;
    this.parameters = parameters;
    this.listener = listener;
    this.cursor = ''; // what comes next begins behind it
    this.failures = 0; // since the gateway last said something
    this.drained = 0; // ms that a draining gateway asked us to wait
    this.connect();
  }

  connect() {
    // With positions the gateway names the place at once, so that a stream that is
    // cut before its first event, or whose filter lets little through, has one too.
    const query = new URLSearchParams({ ...this.parameters, positions: 'true' });
    if (this.cursor) query.set('after', this.cursor);
    else query.set('from', 'earliest');
    const socket = new WebSocket(`${this.address}?${query}`, 'cloudevents.json');
    this.socket = socket;
    socket.onopen = () => this.heard();
    socket.onmessage = (message) => this.message(JSON.parse(message.data));
    socket.onclose = () => this.retry();
    this.heard();
  }

  // heard puts off the moment at which a silent connection counts as dead.
  heard() {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => this.retry(), silence);
  }

  message(event) {
    this.heard();
    this.failures = 0;
    if (event.source !== gatewaySource) {
      this.cursor = event.relaycursor;
      this.listener.event(event);
      return;
    }
    switch (event.type) {
      case 'dev.outrelay.open':
        this.cursor = event.data.cursor;
        this.listener.state(true);
        break;
      case 'dev.outrelay.position':
        this.cursor = event.data.cursor;
        break;
      case 'dev.outrelay.gap':
        this.listener.gap(event.data);
        break;
      case 'dev.outrelay.draining':
        this.drained = event.data.reconnectafterms;
        break;
    }
  }

  // retry leaves the socket, whatever becomes of it, and connects again a little later.
  retry() {
    clearTimeout(this.watch);
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.listener.state(false);
    const spread = Math.max(this.drained, Math.min(longestWait, firstWait * 2 ** this.failures));
    setTimeout(() => this.connect(), this.drained + Math.random() * spread);
    this.failures++;
    this.drained = 0;
  }
}
