/* Markers and their segments up to the coded data: T.81 annex B. Every size and number that later stages use is checked
 * here, so that they need not. */

#include "jpeg.h"

const uint8_t natural_order[256] = {
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47,
    55, 62, 63,
#define OUTSIDE 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64
    OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE,
#undef OUTSIDE
};

enum marker { /* table B.1 */
    SOF0 = 0xC0, SOF1 = 0xC1, DHT = 0xC4, SOI = 0xD8, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0,
    APP2 = 0xE2, APP14 = 0xEE, APP15 = 0xEF, COM = 0xFE,
};

/* What the segments said that libjpeg tells the colours by. */
struct colours {
    int jfif, adobe; /* whether there was such a segment */
    int adobe_transform;
    int icc_parts, icc_bytes; /* of a colour profile: how many there are to be; whether any holds a byte */
    uint8_t icc_seen[256];    /* which of them there were; [0]: how many */
    uint8_t ids[MAX_COMPONENTS];
};

/* A segment's parameters. */
struct segment {
    const uint8_t *at;
    size_t length;
};

static int read_16(const uint8_t *at) {
    return at[0] << 8 | at[1];
}

/* B.2.4.1. Later tables replace earlier ones. */
static enum jpeg_status read_quant(struct segment part, struct jpeg_header *header) {
    while (part.length > 0) {
        const int wide = part.at[0] >> 4, number = part.at[0] & 15;
        const size_t size = 1 + (wide ? 128 : 64);
        if (wide > 1 || number > 3 || part.length < size)
            return JPEG_DAMAGED;
        for (int k = 0; k < 64; k++)
            header->quant[number][natural_order[k]] =
                (uint16_t)(wide ? read_16(part.at + 1 + 2 * k) : part.at[1 + k]);
        header->has_quant[number] = 1;
        part.at += size, part.length -= size;
    }
    return JPEG_OK;
}

/* B.2.4.2. */
static enum jpeg_status read_huffman(struct segment part, struct jpeg_header *header) {
    while (part.length > 0) {
        const int kind = part.at[0] >> 4, number = part.at[0] & 15;
        if (kind > 1 || number > 3 || part.length < 17)
            return JPEG_DAMAGED;
        struct huffman_code *code = kind ? &header->ac[number] : &header->dc[number];
        int count = 0;
        code->lengths[0] = 0;
        for (int length = 1; length <= 16; length++)
            count += code->lengths[length] = part.at[length];
        if (count > 256 || part.length < 17 + (size_t)count)
            return JPEG_DAMAGED;
        code->count = count;
        memset(code->symbols, 0, sizeof code->symbols);
        memcpy(code->symbols, part.at + 17, (size_t)count);
        part.at += 17 + count, part.length -= 17 + (size_t)count;
    }
    return JPEG_OK;
}

/* B.2.2: of 8-bit samples, one component or three, of which the second and third are sampled alike and no finer. */
static enum jpeg_status check_frame(
    struct segment part, size_t file_length, struct jpeg_header *header, struct colours *colours
) {
    if (part.length < 6 || part.at[0] != 8 || header->components)
        return JPEG_UNSUPPORTED;
    header->height = read_16(part.at + 1), header->width = read_16(part.at + 3), header->components = part.at[5];
    if (header->components != 1 && header->components != 3)
        return JPEG_UNSUPPORTED;
    if (part.length != 6 + 3 * (size_t)header->components)
        return JPEG_DAMAGED;
    if (header->height == 0 || header->width == 0 || header->height > MAX_SIDE || header->width > MAX_SIDE)
        return JPEG_UNSUPPORTED;
    if ((uint64_t)header->height * (uint64_t)header->width > (uint64_t)MOST_PIXELS_A_BYTE * file_length)
        return JPEG_DAMAGED;
    for (int c = 0; c < header->components; c++) {
        const uint8_t *at = part.at + 6 + 3 * c;
        const int h = at[1] >> 4, v = at[1] & 15;
        colours->ids[c] = at[0];
        header->component[c].quant = at[2];
        if (at[2] > 3 || h < 1 || v < 1 || h > 4 || v > 4)
            return JPEG_DAMAGED;
        if (header->components == 1 || c == 0)
            header->h = h, header->v = v;
        else if (h != 1 || v != 1)
            return JPEG_UNSUPPORTED;
    }
    if (header->components == 1)
        header->h = header->v = 1; /* alone in its scan, a component comes block by block (A.2.2) */
    else if (header->h > 2 || header->v > 2 || colours->ids[0] == colours->ids[1] ||
             colours->ids[0] == colours->ids[2] || colours->ids[1] == colours->ids[2])
        return JPEG_UNSUPPORTED;
    header->mcu_width = 8 * header->h, header->mcu_height = 8 * header->v;
    header->mcus_across = (header->width + header->mcu_width - 1) / header->mcu_width;
    header->mcu_rows = (header->height + header->mcu_height - 1) / header->mcu_height;
    return JPEG_OK;
}

/* B.2.3: one scan of all components in their order. libjpeg-turbo warns of other spectral selections
 * (JWRN_NOT_SEQUENTIAL). */
static enum jpeg_status check_scan(struct segment part, struct jpeg_header *header, const struct colours *colours) {
    const int n = header->components;
    if (n == 0 || part.length != 4 + 2 * (size_t)n || part.at[0] != n)
        return JPEG_UNSUPPORTED;
    for (int c = 0; c < n; c++) {
        const uint8_t *at = part.at + 1 + 2 * c;
        struct jpeg_component *component = &header->component[c];
        component->dc = at[1] >> 4, component->ac = at[1] & 15;
        if (at[0] != colours->ids[c] || component->dc > 3 || component->ac > 3)
            return JPEG_UNSUPPORTED;
        /* Without tables libjpeg-turbo takes those of annex K. */
        if (!header->has_quant[component->quant] || !header->dc[component->dc].count || !header->ac[component->ac].count)
            return JPEG_UNSUPPORTED;
    }
    const uint8_t *selection = part.at + 1 + 2 * n;
    return selection[0] == 0 && selection[1] == 63 && selection[2] == 0 ? JPEG_OK : JPEG_UNSUPPORTED;
}

/* Three components are YCbCr where JFIF's marker says so, else as Adobe's marker says, else unless they are named R, G
 * and B: libjpeg's rules. */
static int is_ycc(const struct colours *colours) {
    if (colours->jfif)
        return 1;
    if (colours->adobe)
        return colours->adobe_transform == 1;
    return memcmp(colours->ids, "RGB", 3) != 0;
}

/* A colour profile changes no pixel, but TurboJPEG warns where its parts are not 1, 2, ... of their number
 * (JWRN_BOGUS_ICC). */
static int fits_icc(struct segment part, struct colours *colours) {
    const int number = part.at[12], count = part.at[13];
    if (number == 0 || number > count || colours->icc_seen[number] || (colours->icc_parts && colours->icc_parts != count))
        return 0;
    colours->icc_parts = count, colours->icc_seen[number] = 1, colours->icc_seen[0]++;
    colours->icc_bytes |= part.length > 14;
    return 1;
}

static enum jpeg_status read_app(int marker, struct segment part, struct colours *colours) {
    if (marker == APP0 && part.length >= 14 && memcmp(part.at, "JFIF", 5) == 0) {
        colours->jfif = 1;
        return part.at[5] == 1 ? JPEG_OK : JPEG_UNSUPPORTED; /* JWRN_JFIF_MAJOR */
    }
    if (marker == APP14 && part.length >= 12 && memcmp(part.at, "Adobe", 5) == 0)
        colours->adobe = 1, colours->adobe_transform = part.at[11];
    if (marker == APP2 && part.length >= 14 && memcmp(part.at, "ICC_PROFILE", 12) == 0 && !fits_icc(part, colours))
        return JPEG_UNSUPPORTED;
    return JPEG_OK;
}

static enum jpeg_status read_segment(
    int marker, struct segment part, size_t file_length, struct jpeg_header *header, struct colours *colours
) {
    switch (marker) {
    case DQT:
        return read_quant(part, header);
    case DHT:
        return read_huffman(part, header);
    case SOF0:
    case SOF1:
        return check_frame(part, file_length, header, colours);
    case DRI: /* B.2.4.4 */
        if (part.length != 2)
            return JPEG_DAMAGED;
        header->restart_interval = read_16(part.at);
        return JPEG_OK;
    case SOS:
        return check_scan(part, header, colours);
    default:
        if (marker == COM || (marker >= APP0 && marker <= APP15))
            return read_app(marker, part, colours);
        return JPEG_UNSUPPORTED; /* other processes (progressive, arithmetic, lossless), DNL and whatever is odd here */
    }
}

enum jpeg_status read_header(const uint8_t *jpeg, size_t length, struct jpeg_header *header) {
    struct colours colours = {0};
    memset(header, 0, sizeof *header);
    if (length < 4 || jpeg[0] != 0xFF || jpeg[1] != SOI)
        return JPEG_UNSUPPORTED;
    for (size_t at = 2;;) {
        if (at >= length || jpeg[at] != 0xFF)
            return JPEG_DAMAGED; /* JWRN_EXTRANEOUS_DATA, where libjpeg-turbo finds a marker later */
        while (at < length && jpeg[at] == 0xFF) /* fill bytes (B.1.1.2) */
            at++;
        if (length - at < 3)
            return JPEG_DAMAGED;
        const int marker = jpeg[at], size = read_16(jpeg + at + 1);
        at++;
        if (size < 2 || length - at < (size_t)size)
            return marker >= SOF0 && marker < APP0 ? JPEG_DAMAGED : JPEG_UNSUPPORTED;
        const struct segment part = {jpeg + at + 2, (size_t)size - 2};
        const enum jpeg_status status = read_segment(marker, part, length, header, &colours);
        if (status != JPEG_OK)
            return status;
        at += (size_t)size;
        if (marker == SOS) {
            header->scan = at;
            if (colours.icc_seen[0] != colours.icc_parts || (colours.icc_parts && !colours.icc_bytes))
                return JPEG_UNSUPPORTED;
            return header->components == 1 || is_ycc(&colours) ? JPEG_OK : JPEG_UNSUPPORTED;
        }
    }
}
