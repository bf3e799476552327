/* A wrapper for every line of hooks.def that adds 100000 to what the real function returns, and a
 * session that keeps its last event in the environment: the shim's interposing without its
 * thinking. */
#include <stdio.h>
#include <stdlib.h>

#include "../../shim/interpose.h"
#include "../../shim/session.h"

#define NVML_HOOK(symbol, need)                                                                    \
    VGPU_EXPORT int symbol(void);                                                                  \
    VGPU_EXPORT int symbol(void) {                                                                 \
        return 100000 + ((int (*)(void))vgpu_real(VGPU_HOOK_##symbol))();                          \
    }
#define HOOK(symbol, base, version, flavour, need)                                                 \
    VGPU_EXPORT int symbol(void);                                                                  \
    VGPU_EXPORT int symbol(void) {                                                                 \
        return 100000 + ((int (*)(void))vgpu_real(VGPU_HOOK_##symbol))();                          \
    }
#define cuGetProcAddress unused_1 /* hook_resolve.c has these two */
#define cuGetProcAddress_v2 unused_2
#include "../../shim/hooks.def"

static struct vgpu_region region;
static struct vgpu_session session = {.region = &region};

struct vgpu_session *vgpu_session_get(void) {
    return getenv("VGPU_REGION") ? &session : NULL;
}

void vgpu_session_event(struct vgpu_session *of, const struct vgpu_event *event) {
    static int events;
    char text[80];
    (void)snprintf(text, sizeof text, "%d %d %s", ++events, (int)of->region->header.unknown_calls,
                   event->api);
    setenv("ROUTE_EVENT", text, 1);
}

/* capture.c is not part of this build: what it is told of is not looked at here. */
void vgpu_capture_note_unhooked(const char *symbol);
void vgpu_capture_note_unhooked(const char *symbol) { (void)symbol; }

/* Nor is a session with SMs of its own: every function is the driver's. */
void *vgpu_thread_stream_front(const char *symbol, void *real);
void *vgpu_thread_stream_front(const char *symbol, void *real) {
    (void)symbol;
    return real;
}
