/* Live objects of a module, counted in a build with TUSKWS_DEBUG=1 and for free without.

   Garbage collection hides leaks: a connection that some list still names costs nothing but memory. Where objects are
   counted, a test can end a thousand connections and ask for zero. The GIL makes the counter safe. */

#ifndef TUSKWS_DEBUG_H
#define TUSKWS_DEBUG_H

#ifdef TUSKWS_DEBUG
static long tuskws_live;
#define TUSKWS_COUNTED 1
#define tuskws_count(n) ((void)(tuskws_live += (n)))
#else
#define tuskws_live 0L
#define TUSKWS_COUNTED 0
#define tuskws_count(n) ((void)0)
#endif

#endif
