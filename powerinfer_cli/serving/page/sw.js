// Browsers that have used llama-server's page at this address keep a service worker that would go on showing it.
// They ask for this file to renew it, and it does away with itself and with what was stored.
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(leave()));

async function leave() {
  await self.registration.unregister();
  for (const name of await caches.keys()) await caches.delete(name);
  for (const client of await self.clients.matchAll({ type: "window" })) client.navigate(client.url);
}
