using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Models;

namespace Native.Kernels.Cpu;

/// <summary>Causal attention over the paged cache: y[t] = softmax(cap(q[t] K^T * scale)) V. Before it, queries and keys
/// are rotated, and keys and values stored.</summary>
/// <remarks>
/// <para>Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over a paged cache (Kwon et al. 2023,
/// arXiv:2309.06180). A row's context is cut into segments of <see cref="SegmentSize"/> positions and each segment into
/// tiles of <see cref="TileSize"/>, both at fixed multiples. A tile rescales its segment's sums once. The segments'
/// sums are added in ascending order, so several workers can share one row's context (as in Flash-Decoding). What a row
/// adds up, and in which order, depends on its own position alone: the other rows of the tile, the block size and the
/// split over workers change no bit of it.</para>
/// <para>An item is a query tile with one key and value head. Where there are too few items for the workers, an item is
/// some segments of these. If each sequence's new rows are one query tile (a decode), an item stores the keys and
/// values that it reads itself, and no worker waits for another. Otherwise (a prompt's chunk) all are stored first. A
/// few queries read the cache itself: memory is the limit, so judge it in GB/s. Many queries have the tile converted to
/// floats once: judge it in GFLOP/s.</para>
/// </remarks>
internal sealed unsafe class PagedAttention(WorkerPool pool, NativeHeap heap)
{
    /// <summary>Positions that share one rescaling of the running sums.</summary>
    public const int TileSize = 64;

    /// <summary>Positions whose sums are one partial result: some microseconds of work. A multiple of
    /// <see cref="TileSize"/>.</summary>
    public const int SegmentSize = 256;

    // Floats for a row's sum of weights while it is kept by lane: the lanes of the widest vector.
    internal const int SumLanes = 16;

    // Head sizes are padded with zeros to a multiple of two of the widest vectors. Zeros add nothing to a sum.
    private const int Padding = 32;

    // Up to this many queries read the cache itself, five to eight of them in two passes: 13.6 GB/s, against 9.9 for
    // eight with a converted tile.
    private const int CachedQueries = 8;

    // Rows of one head stored together: the rows of a block share its cache lines.
    private const int StoreGrain = 64;

    // Prefetch distance of a store, in rows. A row's lines are pages apart, so hardware does not prefetch them.
    private const int StoreAhead = 16;

    // The least number of items a worker should have, so that none waits long for the last.
    private const int ItemsPerWorker = 8;

    // Most floats of partial results in a step, 16 MiB. A step that needs more has enough rows, so enough items.
    private const long MaxPartialFloats = 4 << 20;

    // A step of fewer positions times head elements is not worth waking another worker.
    private const long SmallWork = 16 << 10;

    private float* _scratch;
    private long _scratchFloats;
    private float* _partials;
    private long _partialFloats;
    private int* _pending;
    private long _pendingInts;

    /// <summary>Rotates, stores and attends for all rows of the step. Shapes have been checked.</summary>
    public void Run(CpuStep step, StepRotations rotations, Tensor qkv, AttentionShape shape, CpuKvLayer cache, Tensor y)
    {
        Job job = Prepare(step, rotations, qkv, shape, cache, y);
        if (!job.StoresInItems) pool.For(job.Stores, StoreGrain, &Store, &job);
        bool small = step.VisiblePositions * shape.Heads * shape.HeadSize < SmallWork;
        // In shares, so that a worker's next item is usually the one that it has prefetched.
        pool.ForShares(job.Items, small ? job.Items : 1, &Attend, &job);
    }

    /// <summary>What <see cref="Run"/> gives to its workers: first <see cref="Store"/> unless items store, then
    /// <see cref="Attend"/>.</summary>
    internal Job Prepare(CpuStep step, StepRotations rotations, Tensor qkv, AttentionShape shape,
        CpuKvLayer cache, Tensor y)
    {
        int padded = (shape.HeadSize + Padding - 1) / Padding * Padding;
        Job job = new()
        {
            Tiles = step.QueryTiles,
            Positions = step.Positions,
            Slots = step.SlotMapping,
            BlockTables = step.BlockTables,
            BlockTableStarts = step.BlockTableStarts,
            Rows = step.Tokens,
            Rotations = rotations.Cosines(0),
            Pairs = rotations.Pairs,
            Pairing = shape.Pairing,
            Qkv = (float*)qkv.Address,
            QkvStride = qkv.Columns,
            Y = (float*)y.Address,
            YStride = y.Columns,
            Heads = shape.Heads,
            KvHeads = shape.KvHeads,
            HeadSize = shape.HeadSize,
            HeadColumns = CpuKvLayer.HeadColumns(shape.HeadSize, cache.Keys.Type),
            Padded = padded,
            Group = shape.Heads / shape.KvHeads,
            Scale = shape.Scale,
            Window = shape.Window,
            SoftCap = shape.SoftCap,
            QueryNorm = (float*)shape.QueryNorm.Address,
            KeyNorm = (float*)shape.KeyNorm.Address,
            NormEpsilon = shape.NormEpsilon,
            Keys = cache.Keys,
            Values = cache.Values,
            BlockSize = cache.Shape.BlockSize,
            StoresInItems = step.TilesAreSequences,
            Parts = 1,
            PartSegments = int.MaxValue,
        };
        SplitContexts(step, ref job);
        job.Items = step.QueryTileCount * shape.KvHeads * job.Parts;
        job.Stores = step.Tokens * shape.KvHeads;

        // The floats of an Item's pointers.
        job.ScratchStride = (((3L * job.MaxQueries * padded) + (2 * TileSize * padded)
            + (2 * TileSize * CpuKvLayer.ScaleCount(padded)) + (4 * TileSize) + ((4L + SumLanes) * job.MaxQueries))
            + 15) & ~15;
        long scratch = job.ScratchStride * pool.Threads;
        job.Scratch = heap.Reserve(ref _scratch, ref _scratchFloats, scratch, scratch / 2);
        return job;
    }

    /// <summary>Cuts contexts into parts where query tiles and heads are too few for the workers.</summary>
    private void SplitContexts(CpuStep step, ref Job job)
    {
        int tileHeads = step.QueryTileCount * job.KvHeads, rows = 1, segments = 1;
        for (int t = 0; t < step.QueryTileCount; t++)
        {
            QueryTile tile = step.QueryTiles[t];
            rows = Math.Max(rows, tile.Rows);
            job.Context(tile, out int begin, out int end);
            segments = Math.Max(segments, ((end - 1) / SegmentSize) - (begin / SegmentSize) + 1);
        }
        job.MaxQueries = rows * job.Group;
        job.PartialStride = job.MaxQueries * (job.Padded + 2L);
        long floats = tileHeads * segments * job.PartialStride;
        if (tileHeads >= ItemsPerWorker * pool.Threads || pool.Threads == 1 || segments == 1
            || !Vector128.IsHardwareAccelerated || floats > MaxPartialFloats) return;

        job.PartSegments = Math.Max(1, tileHeads * segments / (ItemsPerWorker * pool.Threads));
        job.Parts = (segments + job.PartSegments - 1) / job.PartSegments;
        job.Segments = segments;
        // Half as much again in reserve: contexts and batches grow from step to step.
        job.Partials = heap.Reserve(ref _partials, ref _partialFloats, floats, floats / 2);
        job.Pending = heap.Reserve(ref _pending, ref _pendingInts, tileHeads, tileHeads / 2);
        for (int i = 0; i < tileHeads; i++)
        {
            job.Context(step.QueryTiles[i / job.KvHeads], out int begin, out int end);
            int own = ((end - 1) / SegmentSize) - (begin / SegmentSize) + 1;
            job.Pending[i] = (own + job.PartSegments - 1) / job.PartSegments;
        }
    }

    /// <summary>Normalizes and rotates keys and stores keys and values, for items [first, last) of
    /// <see cref="Job.Stores"/>: the rows of the first head, then of the second, and so on.</summary>
    internal static void Store(void* context, int first, int last, int worker)
    {
        Job* job = (Job*)context;
        for (int item = first; item < last; item++)
        {
            int row = item % job->Rows, kvHead = item / job->Rows;
            if (row + StoreAhead < job->Rows) FetchStore(job, row + StoreAhead, kvHead);
            StoreRow(job, row, kvHead, job->Scratch + (worker * job->ScratchStride));
        }
    }

    /// <summary>Prefetches a later row's key and value, and the lines that it writes: those of its value, and its share
    /// of the block's keys. The first row of a block writes lines of all its keys.</summary>
    private static void FetchStore(Job* job, int row, int kvHead)
    {
        if (!Sse.IsSupported) return;
        int d = job->HeadSize, bytes = job->HeadColumns * job->Keys.ElementSize;
        nint offset = (nint)((job->HeadIndex(job->Slots[row], kvHead) * job->Keys.ElementSize)
            + (job->Slots[row] % job->BlockSize * bytes));
        for (int i = 0; i < bytes; i += 64)
        {
            Sse.Prefetch0((byte*)job->Keys.Address + offset + i);
            Sse.Prefetch0((byte*)job->Values.Address + offset + i);
        }
        float* key = job->Qkv + (row * job->QkvStride) + ((long)(job->Heads + kvHead) * d),
            value = key + ((long)job->KvHeads * d);
        for (int i = 0; i < d; i += 16)
        {
            Sse.Prefetch0(key + i);
            Sse.Prefetch0(value + i);
        }
    }

    /// <summary>Computes items [first, last) of <see cref="Job.Items"/>.</summary>
    internal static void Attend(void* context, int first, int last, int worker)
    {
        for (int item = first; item < last; item++)
        {
            if (Vector512.IsHardwareAccelerated) Attend<Simd512, Vector512<float>>((Job*)context, item, worker);
            else if (Vector256.IsHardwareAccelerated) Attend<Simd256, Vector256<float>>((Job*)context, item, worker);
            else if (Vector128.IsHardwareAccelerated) Attend<Simd128, Vector128<float>>((Job*)context, item, worker);
            else AttendScalar((Job*)context, item, worker);
        }
    }

    /// <summary>The definition: the largest logit first, then weights and their sum. Not for items that are parts of a
    /// context.</summary>
    internal static void AttendScalar(Job* job, int item, int worker)
    {
        Debug.Assert(job->Parts == 1, "the definition knows no partial results");
        QueryTile tile = job->Tiles[item / job->KvHeads];
        int kvHead = item % job->KvHeads, d = job->HeadSize;
        float* scratch = job->Scratch + (worker * job->ScratchStride), query = scratch;
        if (job->StoresInItems)
        {
            for (int r = 0; r < tile.Rows; r++) StoreRow(job, tile.FirstRow + r, kvHead, scratch);
        }
        int* blockTable = job->BlockTables + job->BlockTableStarts[tile.Sequence];
        for (int i = 0; i < tile.Rows * job->Group; i++)
        {
            int row = tile.FirstRow + (i / job->Group), head = (kvHead * job->Group) + (i % job->Group);
            LoadQuery(job, row, head, query);
            float* output = job->Y + (row * job->YStride) + ((long)head * d);
            int end = job->Positions[row] + 1, start = job->WindowStart(end - 1);

            double max = double.NegativeInfinity, sum = 0;
            for (int p = start; p < end; p++) max = Math.Max(max, Logit(job, query, blockTable, kvHead, p));
            for (int j = 0; j < d; j++) output[j] = 0;
            for (int p = start; p < end; p++)
            {
                double weight = Math.Exp(Logit(job, query, blockTable, kvHead, p) - max);
                sum += weight;
                long slot = job->Slot(blockTable, p);
                for (int j = 0; j < d; j++) output[j] += (float)(weight * Value(job, slot, kvHead, j));
            }
            for (int j = 0; j < d; j++) output[j] = (float)(output[j] / sum);
        }

        static double Logit(Job* job, float* query, int* blockTable, int kvHead, int p)
        {
            long slot = job->Slot(blockTable, p);
            double dot = 0;
            for (int j = 0; j < job->HeadSize; j++) dot += (double)query[j] * Key(job, slot, kvHead, j);
            double logit = dot * job->Scale;
            return job->SoftCap > 0 ? job->SoftCap * Math.Tanh(logit / job->SoftCap) : logit;
        }
    }

    /// <summary>Computes one item with vectors of one width.</summary>
    internal static void Attend<S, V>(Job* job, int item, int worker)
        where S : struct, ISimd<V>
        where V : struct
    {
        switch (job->Keys.Type)
        {
            case DType.F32: Attend<S, V, F32Element<S, V>>(job, item, worker); break;
            case DType.F16: Attend<S, V, F16Element<S, V>>(job, item, worker); break;
            case DType.BF16: Attend<S, V, BF16Element<S, V>>(job, item, worker); break;
            default: Attend<S, V, Q8Element<S, V>>(job, item, worker); break;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Attend<S, V, E>(Job* job, int number, int worker)
        where S : struct, ISimd<V>
        where V : struct
        where E : struct, IKvElement<V>
    {
        Item item = new(job, number, worker);
        if (item.Begin >= item.End) return;
        QueryTile tile = item.Tile;
        if (job->StoresInItems)
        {
            // Only the rows that this item reads: where a context is in parts, other items store theirs.
            for (int row = tile.FirstRow; row < tile.FirstRow + tile.Rows; row++)
            {
                int position = job->Positions[row];
                if (position >= item.Begin && position < item.End) StoreRow(job, row, item.KvHead, item.Logits);
            }
        }
        int d = job->HeadSize, padded = job->Padded;
        float scale = item.Cached ? job->Scale * AttentionKernels<S, V>.QueryScale<E>() : job->Scale;
        for (int i = 0; i < item.Count; i++)
        {
            float* query = item.Queries + ((long)i * padded);
            LoadQuery(job, tile.FirstRow + (i / job->Group), (item.KvHead * job->Group) + (i % job->Group), query);
            AttentionKernels<S, V>.Multiply(query, scale, query, d);
        }
        if (job->Parts == 1) Clear(item.Count, padded, item.Outputs, item.Maxima, item.Sums);
        if (item.Cached && job->StoresInItems && job->Parts == 1 && number + 1 < job->Items) Fetch(job, number + 1);

        AttendSegments<S, V, E>(job, &item);
        if (job->Parts > 1 && !FoldParts<S, V>(job, &item)) return;
        for (int i = 0; i < item.Count; i++)
        {
            int row = tile.FirstRow + (i / job->Group), head = (item.KvHead * job->Group) + (i % job->Group);
            AttentionKernels<S, V>.Multiply(item.Outputs + ((long)i * padded), 1 / item.Sums[i],
                job->Y + (row * job->YStride) + ((long)head * d), d);
        }
    }

    /// <summary>An item's queries against its positions, tile by tile. Each segment's sums are added to the item's, or
    /// kept as a partial result.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AttendSegments<S, V, E>(Job* job, Item* item)
        where S : struct, ISimd<V>
        where V : struct
        where E : struct, IKvElement<V>
    {
        int begin = item->Begin, end = item->End, count = item->Count, kvHead = item->KvHead, padded = job->Padded;
        int* blockTable = job->BlockTables + job->BlockTableStarts[item->Tile.Sequence];
        KvTile current = default, next = default, converted = Converted(item->Keys, item->Values, padded);
        next.KeyScales = item->KeyScales;
        next.ValueScales = item->ValueScales;
        if (item->Whole)
            Locate(job, blockTable, kvHead, begin, Math.Min(end, (begin / TileSize * TileSize) + TileSize), &next);
        for (int start = begin / SegmentSize * SegmentSize; start < end; start += SegmentSize)
        {
            Clear(count, padded, item->Segment, item->SegmentMaxima, item->SegmentSums);
            new Span<float>(item->SegmentLanes, count * SumLanes).Clear();
            int segmentEnd = Math.Min(end, start + SegmentSize);
            for (int origin = Math.Max(start, begin / TileSize * TileSize); origin < segmentEnd; origin += TileSize)
            {
                int following = origin + TileSize;
                if (item->Whole)
                {
                    current = next;
                    if (E.Scaled) WidenScales<S, V>(&current, CpuKvLayer.ScaleCount(job->HeadSize));
                    if (following < end)
                        Locate(job, blockTable, kvHead, following, Math.Min(end, following + TileSize), &next);
                }
                if (item->Cached)
                {
                    AttendTile<S, V, E>(job, item, origin, &current, &next);
                    continue;
                }
                if (item->Whole)
                    AttentionKernels<S, V>.ConvertTile<E>(&current, &next, job->HeadSize, item->Keys, item->Values);
                else
                    Gather(job, blockTable, kvHead, origin, Math.Max(begin, origin), Math.Min(end, following),
                        item->Keys, item->Values);
                AttendTile<S, V, ScratchElement<S, V>>(job, item, origin, &converted, &converted);
            }
            for (int i = 0; i < count; i++)
                item->SegmentSums[i] = SimdMath<S, V>.Sum(S.Load(item->SegmentLanes + (i * SumLanes)));
            if (job->Parts == 1)
                FoldSegment<S, V>(count, padded, item->Segment, item->SegmentMaxima, item->SegmentSums,
                    item->Outputs, item->Maxima, item->Sums);
            else KeepSegment(job, item, start / SegmentSize);
        }
    }

    /// <summary>An item's queries, up to four at once, against the tile of positions from <paramref name="origin"/>
    /// on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void AttendTile<S, V, E>(Job* job, Item* item, int origin, KvTile* current, KvTile* next)
        where S : struct, ISimd<V>
        where V : struct
        where E : struct, IKvElement<V>
    {
        TileRows rows = default;
        (rows.HeadSize, rows.Padded, rows.SoftCap) = (job->HeadSize, job->Padded, job->SoftCap);
        rows.Logits = item->Logits;
        int count = item->Count, quads = (count + 3) / 4;
        for (int quad = 0; quad < quads; quad++)
        {
            int first = count * quad / quads;
            rows.Count = (count * (quad + 1) / quads) - first;
            for (int i = 0; i < rows.Count; i++)
            {
                int position = job->Positions[item->Tile.FirstRow + ((first + i) / job->Group)];
                rows.From[i] = Math.Clamp(job->WindowStart(position) - origin, 0, TileSize);
                rows.To[i] = Math.Clamp(position + 1 - origin, 0, TileSize);
            }
            rows.Queries = item->Queries + ((long)first * job->Padded);
            rows.Maxima = item->SegmentMaxima + first;
            rows.Sums = item->SegmentLanes + (first * SumLanes);
            rows.Outputs = item->Segment + ((long)first * job->Padded);
            AttentionKernels<S, V>.Attend<E>(&rows, current, next);
        }
    }

    /// <summary>The place of a tile's keys and values in scratch, as floats.</summary>
    private static KvTile Converted(float* keys, float* values, int padded)
    {
        KvTile tile = default;
        (tile.KeyStride, tile.ValueStride) = (TileSize * sizeof(float), padded * sizeof(float));
        for (int g = 0; g < TileSize / KvTile.Group; g++)
        {
            tile.Keys[g] = (long)(keys + (g * KvTile.Group));
            tile.Values[g] = (long)(values + ((long)g * KvTile.Group * padded));
        }
        return tile;
    }

    /// <summary>Copies a segment's sums to its partial result.</summary>
    private static void KeepSegment(Job* job, Item* item, int segment)
    {
        float* partial = job->Partial(item->TileHead, segment);
        long count = item->Count, floats = count * job->Padded;
        Buffer.MemoryCopy(item->Segment, partial, floats * sizeof(float), floats * sizeof(float));
        for (int i = 0; i < count; i++)
            (partial[floats + i], partial[floats + count + i]) = (item->SegmentMaxima[i], item->SegmentSums[i]);
    }

    /// <summary>Adds up the partial results of a context if this item is the last of its parts to end; false where it
    /// is not. The order is the context's, whichever part ends last.</summary>
    private static bool FoldParts<S, V>(Job* job, Item* item)
        where S : struct, ISimd<V>
        where V : struct
    {
        if (Interlocked.Decrement(ref job->Pending[item->TileHead]) != 0) return false;
        int count = item->Count, padded = job->Padded;
        job->Context(item->Tile, out int begin, out int end);
        Clear(count, padded, item->Outputs, item->Maxima, item->Sums);
        for (int s = begin / SegmentSize; s <= (end - 1) / SegmentSize; s++)
        {
            float* partial = job->Partial(item->TileHead, s), maxima = partial + ((long)count * padded);
            FoldSegment<S, V>(count, padded, partial, maxima, maxima + count,
                item->Outputs, item->Maxima, item->Sums);
        }
        return true;
    }

    private static void Clear(int count, int padded, float* outputs, float* maxima, float* sums)
    {
        new Span<float>(outputs, count * padded).Clear();
        new Span<float>(maxima, count).Fill(float.NegativeInfinity);
        new Span<float>(sums, count).Clear();
    }

    private static void FoldSegment<S, V>(int count, int padded, float* segment, float* segmentMaxima,
        float* segmentSums, float* outputs, float* maxima, float* sums)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (int i = 0; i < count; i++)
        {
            // This row sees none of the segment; if it sees any, the largest logit's weight is 1
            if (segmentSums[i] == 0) continue;
            if (sums[i] == 0)
            {
                // The first segment that the row sees: a fold would only multiply by 1.
                Buffer.MemoryCopy(segment + ((long)i * padded), outputs + ((long)i * padded), padded * sizeof(float),
                    padded * sizeof(float));
                (maxima[i], sums[i]) = (segmentMaxima[i], segmentSums[i]);
                continue;
            }
            AttentionKernels<S, V>.Fold(segmentMaxima[i], segmentSums[i], segment + ((long)i * padded), ref maxima[i],
                ref sums[i], outputs + ((long)i * padded), padded);
        }
    }

    /// <summary>Addresses of positions [from, to) of a tile in the cache. Groups outside that range get a neighbour's
    /// address: their lanes are masked.</summary>
    private static void Locate(Job* job, int* blockTable, int kvHead, int from, int to, KvTile* tile)
    {
        int size = job->Keys.ElementSize, origin = from / TileSize * TileSize;
        tile->KeyStride = job->BlockSize * size;
        tile->ValueStride = job->HeadSize * size;
        tile->ScaleStride = job->BlockSize * sizeof(ushort);
        for (int g = 0; g < TileSize / KvTile.Group; g++)
        {
            int position = Math.Clamp(origin + (g * KvTile.Group), from / KvTile.Group * KvTile.Group,
                (to - 1) / KvTile.Group * KvTile.Group);
            long slot = job->Slot(blockTable, position);
            tile->Keys[g] = job->Keys.Address + (nint)(job->KeyIndex(slot, kvHead) * size);
            tile->Values[g] = job->Values.Address + (nint)(job->ValueIndex(slot, kvHead) * size);
            if (job->Keys.Type != DType.Q8_0) continue;
            (tile->NarrowKeyScales[g], tile->NarrowValueScales[g]) =
                ((long)job->Scales(job->Keys, slot, kvHead), (long)job->Scales(job->Values, slot, kvHead));
            if (!Sse.IsSupported) continue;
            for (int i = 0; i < CpuKvLayer.ScaleCount(job->HeadSize); i++)
            {
                Sse.Prefetch0((byte*)tile->NarrowKeyScales[g] + (i * tile->ScaleStride));
                Sse.Prefetch0((byte*)tile->NarrowValueScales[g] + (i * tile->ScaleStride));
            }
        }
    }

    /// <summary>Converts a tile's scales to floats, just before its keys and values are read.</summary>
    private static void WidenScales<S, V>(KvTile* tile, int count)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (int i = 0; i < count; i++)
        {
            nint row = i * tile->ScaleStride;
            for (int lane = 0; lane < TileSize; lane += S.Count)
            {
                int group = lane / KvTile.Group, within = lane % KvTile.Group;
                S.Store(S.LoadBF16((ushort*)(tile->NarrowKeyScales[group] + row) + within),
                    tile->KeyScales + (i * TileSize) + lane);
                S.Store(S.LoadBF16((ushort*)(tile->NarrowValueScales[group] + row) + within),
                    tile->ValueScales + (i * TileSize) + lane);
            }
        }
    }

    /// <summary>Prefetches the first keys of an item, and the lines of those that it stores, while the item before it
    /// computes. With short contexts, waiting for these lines would be most of an item's time.</summary>
    private static void Fetch(Job* job, int item)
    {
        if (!Sse.IsSupported) return;
        QueryTile tile = job->Tiles[item / job->KvHeads];
        int kvHead = item % job->KvHeads, size = job->Keys.ElementSize,
            block = job->BlockSize * job->HeadColumns * size;
        int* blockTable = job->BlockTables + job->BlockTableStarts[tile.Sequence];
        job->Context(tile, out int begin, out int end);
        int first = begin / job->BlockSize, last =
            (Math.Min(end, (begin / TileSize * TileSize) + TileSize) - 1) / job->BlockSize;
        for (int b = first; b <= last; b++) FetchKeys(blockTable[b] * (long)job->BlockSize);
        for (int row = tile.FirstRow; row < tile.FirstRow + tile.Rows; row++)
        {
            if (job->Positions[row] / job->BlockSize > last) FetchKeys(job->Slots[row]);
        }

        void FetchKeys(long slot)
        {
            byte* keys = (byte*)job->Keys.Address
                + (job->KeyIndex(slot / job->BlockSize * job->BlockSize, kvHead) * size);
            // At most a page: the running item needs the L1 cache too.
            for (int i = 0; i < Math.Min(block, 4096); i += 64) Sse.Prefetch0(keys + i);
        }
    }

    /// <summary>Converts positions [from, to) of a tile to floats in scratch, for any block size: [d, TileSize] and
    /// [TileSize, padded].</summary>
    private static void Gather(Job* job, int* blockTable, int kvHead, int origin, int from, int to, float* keys,
        float* values)
    {
        int d = job->HeadSize, padded = job->Padded;
        for (int p = from; p < to; p++)
        {
            long slot = job->Slot(blockTable, p);
            float* column = keys + p - origin, row = values + ((long)(p - origin) * padded);
            for (int j = 0; j < d; j++)
            {
                column[(long)j * TileSize] = Key(job, slot, kvHead, j);
                row[j] = Value(job, slot, kvHead, j);
            }
            new Span<float>(row + d, padded - d).Clear();
        }
    }

    /// <summary>A row's query of one head, normalized and rotated; d floats.</summary>
    private static void LoadQuery(Job* job, int row, int head, float* query)
    {
        float* source = job->Qkv + (row * job->QkvStride) + ((long)head * job->HeadSize);
        if (job->QueryNorm != null) Elementwise.RmsNorm(source, job->QueryNorm, job->NormEpsilon, query, job->HeadSize);
        else new ReadOnlySpan<float>(source, job->HeadSize).CopyTo(new Span<float>(query, job->HeadSize));
        Rope.Rotate(query, job->Cosines(row), job->Cosines(row) + job->Pairs, job->Pairs, job->Pairing);
    }

    /// <summary>Normalizes and rotates a row's key of one head, and stores it with its value in the cache's
    /// type.</summary>
    private static void StoreRow(Job* job, int row, int kvHead, float* scratch)
    {
        int d = job->HeadSize, blockSize = job->BlockSize;
        float* key = job->Qkv + (row * job->QkvStride) + ((long)(job->Heads + kvHead) * d),
            value = key + ((long)job->KvHeads * d);
        if (job->KeyNorm != null) Elementwise.RmsNorm(key, job->KeyNorm, job->NormEpsilon, key, d);
        Rope.Rotate(key, job->Cosines(row), job->Cosines(row) + job->Pairs, job->Pairs, job->Pairing);

        long slot = job->Slots[row], element = job->KeyIndex(slot, kvHead);
        if (job->Keys.Type == DType.F32)
        {
            float* target = (float*)job->Keys.Address + element;
            for (int j = 0; j < d; j++, target += blockSize) *target = key[j];
        }
        else if (job->Keys.Type == DType.Q8_0)
        {
            sbyte* target = (sbyte*)job->Keys.Address + element, narrow = (sbyte*)scratch,
                values = (sbyte*)job->Values.Address + job->ValueIndex(slot, kvHead);
            ushort* keyScale = job->Scales(job->Keys, slot, kvHead),
                valueScale = job->Scales(job->Values, slot, kvHead);
            for (int j = 0; j < d; j += CpuKvLayer.ScaleGroup, keyScale += blockSize, valueScale += blockSize)
            {
                int n = Math.Min(CpuKvLayer.ScaleGroup, d - j);
                *keyScale = Q8Block.Quantize(key + j, n, narrow);
                for (int i = 0; i < n; i++, target += blockSize) *target = narrow[i];
                *valueScale = Q8Block.Quantize(value + j, n, values + j);
            }
            return;
        }
        else
        {
            ushort* target = (ushort*)job->Keys.Address + element;
            ushort* narrow = (ushort*)scratch;
            Rope.Convert(key, new Tensor((nint)narrow, 1, d, job->Keys.Type), 0, d);
            for (int j = 0; j < d; j++, target += blockSize) *target = narrow[j];
        }
        Rope.Convert(value, job->Values, job->ValueIndex(slot, kvHead), d);
    }

    /// <summary>Element j of a slot's key: the float that vectors of any width read.</summary>
    private static float Key(Job* job, long slot, int kvHead, int j) =>
        Element(job, job->Keys, slot, kvHead, j, job->KeyIndex(slot, kvHead) + ((long)j * job->BlockSize));

    /// <summary>Element j of a slot's value.</summary>
    private static float Value(Job* job, long slot, int kvHead, int j) =>
        Element(job, job->Values, slot, kvHead, j, job->ValueIndex(slot, kvHead) + j);

    private static float Element(Job* job, Tensor tensor, long slot, int kvHead, int j, long index) =>
        tensor.Type switch
        {
            DType.F32 => ((float*)tensor.Address)[index],
            DType.F16 => BitConverter.Int32BitsToSingle(
                (((short*)tensor.Address)[index] << 13) & unchecked((int)0x8fffe000)) * 5.192296858534828e33f,
            DType.BF16 => BitConverter.UInt32BitsToSingle((uint)((ushort*)tensor.Address)[index] << 16),
            _ => ((sbyte*)tensor.Address)[index]
                * Q8Block.Widen(job->Scales(tensor, slot, kvHead)[(long)(j / CpuKvLayer.ScaleGroup) * job->BlockSize]),
        };

    /// <summary>One item's rows, positions and scratch.</summary>
    private readonly struct Item
    {
        public readonly QueryTile Tile;
        public readonly int TileHead;        // the query tile and key head together
        public readonly int KvHead;
        public readonly int Begin;           // the first position of this part of the context
        public readonly int End;             // the position after its last; not above Begin where the part is empty
        public readonly int Count;           // queries: rows times Group
        public readonly bool Whole;          // groups of positions lie at one stride in the cache
        public readonly bool Cached;         // queries read the cache itself
        public readonly float* Queries;      // [Count, Padded]
        public readonly float* Segment;      // [Count, Padded], sums of weight * value, of a segment so far
        public readonly float* Outputs;      // [Count, Padded], of all segments so far
        public readonly float* Keys;         // [Padded, TileSize]
        public readonly float* Values;       // [TileSize, Padded]
        public readonly float* KeyScales;    // [scales, TileSize]
        public readonly float* ValueScales;  // [scales, TileSize]
        public readonly float* Logits;       // [4, TileSize], then weights
        public readonly float* SegmentMaxima; // [Count]
        public readonly float* Maxima;       // [Count]
        public readonly float* Sums;         // [Count], sums of weights
        public readonly float* SegmentLanes; // [Count, SumLanes], sums of weights of a segment so far, by lane
        public readonly float* SegmentSums;  // [Count]

        public Item(Job* job, int number, int worker)
        {
            (TileHead, int part) = (number / job->Parts, number % job->Parts);
            (Tile, KvHead) = (job->Tiles[TileHead / job->KvHeads], TileHead % job->KvHeads);
            job->Context(Tile, out Begin, out End);
            if (job->Parts > 1)
            {
                long firstSegment = (Begin / SegmentSize) + ((long)part * job->PartSegments);
                Begin = (int)Math.Max(Begin, firstSegment * SegmentSize);
                End = (int)Math.Min(End, (firstSegment + job->PartSegments) * SegmentSize);
            }
            Count = Tile.Rows * job->Group;
            Whole = job->BlockSize % KvTile.Group == 0 && job->HeadSize == job->Padded;
            Cached = Whole && Count <= CachedQueries;

            long rows = (long)Count * job->Padded, tile = (long)TileSize * job->Padded;
            int scales = CpuKvLayer.ScaleCount(job->HeadSize) * TileSize;
            Queries = job->Scratch + (worker * job->ScratchStride);
            Segment = Queries + rows;
            Outputs = Segment + rows;
            Keys = Outputs + rows;
            Values = Keys + tile;
            KeyScales = Values + tile;
            ValueScales = KeyScales + scales;
            Logits = ValueScales + scales;
            SegmentMaxima = Logits + (4 * TileSize);
            Maxima = SegmentMaxima + Count;
            Sums = Maxima + Count;
            SegmentLanes = Sums + Count;
            SegmentSums = SegmentLanes + ((long)Count * SumLanes);
        }
    }

    /// <summary>Operands and plan of one call, for the workers.</summary>
    internal struct Job
    {
        public QueryTile* Tiles;
        public int* Positions;
        public int* Slots;
        public int* BlockTables;
        public int* BlockTableStarts;
        public int Rows;
        public float* Rotations;     // [Rows, 2, Pairs], cosines and sines
        public int Pairs;
        public RopePairing Pairing;
        public float* Qkv;
        public long QkvStride;
        public float* Y;
        public long YStride;
        public int Heads;
        public int KvHeads;
        public int HeadSize;
        public int HeadColumns;      // of the cache, scales included
        public int Padded;
        public int Group;            // query heads of a key head
        public float Scale;
        public int Window;
        public float SoftCap;
        public float* QueryNorm;     // null for none
        public float* KeyNorm;
        public float NormEpsilon;
        public Tensor Keys;
        public Tensor Values;
        public int BlockSize;

        public bool StoresInItems;
        public int Stores;           // items of Store
        public int Items;            // items of Attend: [tiles, KvHeads, Parts]
        public int Parts;            // into which contexts are cut
        public int PartSegments;     // segments a part has
        public int Segments;         // of the longest context
        public int MaxQueries;       // of an item
        public float* Partials;      // [tiles, KvHeads, Segments]: sums of weight * value, maxima, sums of weights
        public long PartialStride;
        public int* Pending;         // [tiles, KvHeads], parts not yet done
        public float* Scratch;       // one for each worker
        public long ScratchStride;

        /// <summary>Positions that any row of a tile sees.</summary>
        public readonly void Context(QueryTile tile, out int begin, out int end)
        {
            (begin, end) = (int.MaxValue, 0);
            for (int row = tile.FirstRow; row < tile.FirstRow + tile.Rows; row++)
            {
                begin = Math.Min(begin, WindowStart(Positions[row]));
                end = Math.Max(end, Positions[row] + 1);
            }
        }

        /// <summary>First position a row sees.</summary>
        public readonly int WindowStart(int position) => Window > 0 ? Math.Max(0, position - Window + 1) : 0;

        public readonly float* Cosines(int row) => Rotations + (2L * row * Pairs);

        /// <summary>A segment's partial results. Segments are numbered from the context's beginning, windows
        /// ignored.</summary>
        public readonly float* Partial(int tileHead, int segment)
        {
            Context(Tiles[tileHead / KvHeads], out int begin, out _);
            return Partials + ((((long)tileHead * Segments) + segment - (begin / SegmentSize)) * PartialStride);
        }

        /// <summary>The slot of a sequence's position.</summary>
        public readonly long Slot(int* blockTable, int position) =>
            ((long)blockTable[position / BlockSize] * BlockSize) + (position % BlockSize);

        /// <summary>Index of the first element of a slot's key; the others follow at BlockSize.</summary>
        public readonly long KeyIndex(long slot, int kvHead) => HeadIndex(slot, kvHead) + (slot % BlockSize);

        /// <summary>Index of the first element of a slot's value.</summary>
        public readonly long ValueIndex(long slot, int kvHead) =>
            HeadIndex(slot, kvHead) + (slot % BlockSize * HeadSize);

        /// <summary>The first scale of a slot's key or value in a cache of <see cref="DType.Q8_0"/>; the others follow
        /// at BlockSize.</summary>
        public readonly ushort* Scales(Tensor tensor, long slot, int kvHead) =>
            (ushort*)((sbyte*)tensor.Address + HeadIndex(slot, kvHead) + ((long)HeadSize * BlockSize))
                + (slot % BlockSize);

        /// <summary>Index of a head's first element in a slot's block.</summary>
        public readonly long HeadIndex(long slot, int kvHead) =>
            ((slot / BlockSize * KvHeads) + kvHead) * HeadColumns * BlockSize;
    }
}
