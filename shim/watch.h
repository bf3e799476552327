/* The watcher: one thread per process and gated device, asleep until another process of the session
 * waits for this one to drain. Never more than one driver query between two sleeps. */
#ifndef VGPU_WATCH_H
#define VGPU_WATCH_H

#include "pace.h"

/* Starts the watcher of this pace. False if no thread could be made: neighbours then wait for the
 * deadline of an unresponsive process. */
bool vgpu_watch_start(struct vgpu_pace *pace);

#endif
