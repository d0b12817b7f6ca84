/**
 * The page without a network: a service worker that keeps the page's own files. The build puts their names and the name of the
 * cache here (vite.config.js). Models are none of its business: the package keeps them itself.
 */

const CACHE = '%CACHE%';
const FILES = '%FILES%'.split(' ').map((name) => new URL(name, self.registration.scope).href);
/** What the page's own address means. */
const INDEX = new URL('index.html', self.registration.scope).href;

self.addEventListener('install', (event) => {
  const keep = async () => (await caches.open(CACHE)).addAll(FILES);
  event.waitUntil(keep().then(() => self.skipWaiting()));
});

self.addEventListener('activate', (event) => {
  const clean = async () => {
    const names = await caches.keys();
    const old = names.filter((name) => name.startsWith('incoder-page-') && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
  };
  event.waitUntil(clean().then(() => self.clients.claim()));
});

self.addEventListener('fetch', (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const url = origin + pathname === self.registration.scope ? INDEX : origin + pathname;
  if (request.method !== 'GET' || !FILES.includes(url)) return;
  const kept = async () => (await caches.open(CACHE)).match(url);
  const answer = async () => {
    // A page may be newer on the server; what it loads has the hash of its content in its name.
    if (request.mode !== 'navigate') return (await kept()) ?? fetch(request);
    return fetch(request).catch(async (error) => {
      const page = await kept();
      if (page) return page;
      throw error;
    });
  };
  event.respondWith(answer());
});
