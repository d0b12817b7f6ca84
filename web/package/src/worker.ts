/** The dedicated worker: one host, one client. */

import { Host } from './host.js';
import type { ToClient, ToHost } from './protocol.js';

const host = new Host((message: ToClient) => postMessage(message));
addEventListener('message', ({ data }: MessageEvent<ToHost>) => host.handle(data));
