/* The card models, and which cards a process sees. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sim.h"

/* H200: measured on driver 580.159.04 (memory, context, clocks). The others: vendor data sheets for
 * the chip, and plausible values for the driver's own memory. */
static const struct sim_model models[] = {
    {.key = "h200",
     .name = "NVIDIA H200 (simulated)",
     .sms = 132,
     .sm_step = 8,
     .sm_groups = 15,
     .major = 9,
     .minor = 0,
     .clock_khz = 1980000,
     .memory_khz = 3201000,
     .bus_bits = 6144,
     .pci_device = 0x233510de,
     .threads_per_sm = 2048,
     .blocks_per_sm = 32,
     .shared_per_sm = 233472,
     .shared_optin = 232448,
     .l2_bytes = 62914560,
     .cores_per_sm = 128,
     .total = 150109880320,
     .reserved = 644939776,
     .context_listed = 518 * SIM_MIB,
     .context_hidden = 5872026,
     .init_hidden = 3355443},
    {.key = "a100",
     .name = "NVIDIA A100-SXM4-80GB (simulated)",
     .sms = 108,
     .sm_step = 2,
     .sm_groups = 54,
     .major = 8,
     .minor = 0,
     .clock_khz = 1410000,
     .memory_khz = 1593000,
     .bus_bits = 5120,
     .pci_device = 0x20b210de,
     .threads_per_sm = 2048,
     .blocks_per_sm = 32,
     .shared_per_sm = 167936,
     .shared_optin = 166912,
     .l2_bytes = 41943040,
     .cores_per_sm = 64,
     .total = 81154 * SIM_MIB,
     .reserved = 766 * SIM_MIB,
     .context_listed = 424 * SIM_MIB,
     .context_hidden = 5 * SIM_MIB,
     .init_hidden = 3 * SIM_MIB},
    {.key = "rtx3080",
     .name = "NVIDIA GeForce RTX 3080 (simulated)",
     .sms = 68,
     .sm_step = 2,
     .sm_groups = 34,
     .major = 8,
     .minor = 6,
     .clock_khz = 1710000,
     .memory_khz = 9501000,
     .bus_bits = 320,
     .pci_device = 0x220610de,
     .threads_per_sm = 1536,
     .blocks_per_sm = 16,
     .shared_per_sm = 102400,
     .shared_optin = 101376,
     .l2_bytes = 5242880,
     .cores_per_sm = 128,
     .total = 10016 * SIM_MIB,
     .reserved = 224 * SIM_MIB,
     .context_listed = 254 * SIM_MIB,
     .context_hidden = 4 * SIM_MIB,
     .init_hidden = 2 * SIM_MIB},
    {.key = "rtx4090",
     .name = "NVIDIA GeForce RTX 4090 (simulated)",
     .sms = 128,
     .sm_step = 2,
     .sm_groups = 64,
     .major = 8,
     .minor = 9,
     .clock_khz = 2520000,
     .memory_khz = 10501000,
     .bus_bits = 384,
     .pci_device = 0x268410de,
     .threads_per_sm = 1536,
     .blocks_per_sm = 24,
     .shared_per_sm = 102400,
     .shared_optin = 101376,
     .l2_bytes = 75497472,
     .cores_per_sm = 128,
     .total = 24118 * SIM_MIB,
     .reserved = 446 * SIM_MIB,
     .context_listed = 376 * SIM_MIB,
     .context_hidden = 4 * SIM_MIB,
     .init_hidden = 2 * SIM_MIB},
};

const struct sim_model *sim_model(void) {
    const char *key = getenv("VGPU_SIM_CARD");
    if (key)
        for (size_t i = 0; i < sizeof models / sizeof *models; i++)
            if (!strcasecmp(key, models[i].key)) return &models[i];
    return &models[0];
}

int sim_card_count(void) {
    const char *text = getenv("VGPU_SIM_GPUS");
    long count = text && *text ? strtol(text, NULL, 10) : 1;
    return count < 0 ? 0 : count > SIM_MAX_CARDS ? SIM_MAX_CARDS : (int)count;
}

void sim_card_uuid(int card, unsigned char bytes[16]) {
    uint64_t mixed = UINT64_C(0x9e3779b97f4a7c15);
    for (const char *c = sim_model()->key; *c; c++)
        mixed = (mixed ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    mixed = (mixed ^ (uint64_t)card) * UINT64_C(0xff51afd7ed558ccd);
    bytes[0] = 0x51;
    bytes[1] = 0x30;
    bytes[2] = (unsigned char)card; /* so that two cards differ within the first eight digits */
    for (int i = 3; i < 16; i++) {
        mixed ^= mixed >> 29;
        mixed *= UINT64_C(0xc4ceb9fe1a85ec53);
        bytes[i] = (unsigned char)(mixed >> 56);
    }
}

void sim_card_uuid_text(int card, char text[48]) {
    unsigned char b[16];
    sim_card_uuid(card, b);
    snprintf(text, 48, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}

unsigned int sim_card_bus(int card) { return 0x18 + 0x09 * (unsigned int)card; }

/* One word of CUDA_VISIBLE_DEVICES: an index, or a UUID or a prefix of one that fits only one card.
 * -1 = invalid. */
static int card_named(const char *word, size_t length) {
    int count = sim_card_count(), found = -1;
    if (length > 4 && !strncasecmp(word, "GPU-", 4)) {
        for (int card = 0; card < count; card++) {
            char uuid[48];
            sim_card_uuid_text(card, uuid);
            if (length > strlen(uuid) || strncasecmp(word, uuid, length)) continue;
            if (found >= 0) return -1;
            found = card;
        }
        return found;
    }
    if (!length || length > 4) return -1;
    int index = 0;
    for (size_t i = 0; i < length; i++) {
        if (word[i] < '0' || word[i] > '9') return -1;
        index = index * 10 + (word[i] - '0');
    }
    return index < count ? index : -1;
}

int sim_card_visible(int card_of[SIM_MAX_CARDS]) {
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    int count = 0;
    if (!list) {
        for (; count < sim_card_count(); count++) card_of[count] = count;
        return count;
    }
    /* The first invalid or repeated entry ends the list. */
    while (count < SIM_MAX_CARDS) {
        list += strspn(list, " \t");
        size_t length = strcspn(list, ",");
        size_t word = length;
        while (word && (list[word - 1] == ' ' || list[word - 1] == '\t')) word--;
        int card = card_named(list, word);
        for (int i = 0; i < count; i++)
            if (card_of[i] == card) card = -1;
        if (card < 0) break;
        card_of[count++] = card;
        if (!list[length]) break;
        list += length + 1;
    }
    return count;
}
