using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;

namespace Native.Server.Hub;

/// <summary>How far a download is.</summary>
/// <param name="File">The file that is worked at.</param>
/// <param name="Done">Bytes that are there, of all files.</param>
/// <param name="Total">Bytes of all files.</param>
/// <param name="Note">What happens besides downloading, in words: a retry, a wait, checking; else empty.</param>
public sealed record HubProgress(string File, long Done, long Total, string Note);

/// <summary>Counts what arrives, from any thread, and tells it ten times a second.</summary>
internal sealed class DownloadCount(long total, IProgress<HubProgress>? progress)
{
    private readonly Lock _lock = new();
    private long _done, _told;

    public string File { get; set; } = "";

    public void Add(long bytes)
    {
        lock (_lock)
        {
            _done += bytes;
            if (progress is null || (_told != 0 && Stopwatch.GetElapsedTime(_told).TotalSeconds < 0.1)) return;
            Tell("");
        }
    }

    public void Note(string note)
    {
        lock (_lock) Tell(note);
    }

    private void Tell(string note)
    {
        _told = Stopwatch.GetTimestamp();
        progress?.Report(new HubProgress(File, _done, total, note));
    }
}

/// <summary>Fetches one file, in ranges at once where the server has them, going on from what an earlier process
/// left.</summary>
internal sealed class HubDownload(HubClient client, HubOptions options, HubFile file, DownloadCount count)
{
    private const int BufferBytes = 256 << 10;

    /// <summary>An attempt that brought this much, or all there was to bring, got further: the count of failures begins
    /// anew.</summary>
    private const long Further = 64 << 10;

    private volatile bool _rangesIgnored;

    /// <summary>Brings the file to <paramref name="blob"/>, whole and with its hash, or throws and leaves what arrived
    /// for the next time. The file's lock must be held.</summary>
    /// <exception cref="HubException">It can't be had, or what came is not what was announced.</exception>
    public async Task RunAsync(string blob, CancellationToken ct)
    {
        using PartialFile part = PartialFile.Open(blob, file.Size, options.RangeBytes);
        count.Add(part.Done);
        int[] missing = [.. Enumerable.Range(0, part.RangeCount).Where(range => part.Next(range) < part.End(range))];
        await Parallel.ForEachAsync(missing,
            new ParallelOptions { MaxDegreeOfParallelism = options.Connections, CancellationToken = ct },
            (range, stop) => new ValueTask(FetchAsync(part, range, stop)));
        if (_rangesIgnored) await FetchWholeAsync(part, ct);

        count.Note("checking");
        if (!part.Matches(file.Etag, ct))
        {
            part.Delete();
            throw new HubException(
                $"{file.Path} of {file.Repository}: what arrived has not the hash {file.Etag} that the hub names, and "
                    + "is deleted; pull it again");
        }
        part.Complete(blob);
    }

    /// <summary>Fetches what a range lacks, unless the server turns out not to know ranges.</summary>
    private async Task FetchAsync(PartialFile part, int range, CancellationToken ct)
    {
        for (int failures = 0; !_rangesIgnored && part.Next(range) < part.End(range);)
        {
            long before = part.Next(range), end = part.End(range);
            try
            {
                await AttemptAsync(part, range, ct);
            }
            catch (TransientException e)
            {
                bool further = part.Next(range) - before >= Math.Min(Further, end - before);
                failures = further ? 1 : failures + 1;
                await client.WaitAsync(failures, e, count.Note, ct);
            }
        }
    }

    private async Task AttemptAsync(PartialFile part, int range, CancellationToken ct)
    {
        long from = part.Next(range), end = part.End(range);
        bool whole = from == 0 && end == file.Size;
        using Stall stall = new(options.StallTimeout, ct);
        using HttpResponseMessage response =
            await client.GetAsync(file, whole ? null : new RangeHeaderValue(from, end - 1), stall);
        if (!whole)
        {
            if (response.StatusCode == HttpStatusCode.OK)
            {
                _rangesIgnored = true;
                return;
            }
            // A server may answer with less of the range, and is asked for the rest.
            ContentRangeHeaderValue? sent = response.Content.Headers.ContentRange;
            if (sent is not { From: { } first, To: { } last } || first != from || last < first || last >= end
                || (sent.Length is { } length && length != file.Size))
                throw Wrong($"bytes {from}-{end - 1}/{file.Size} were asked "
                    + $"for, {sent?.ToString() ?? "no range"} came");
            end = last + 1;
        }
        await ReadAsync(response, from, end, bytes => part.Append(range, bytes.Span), stall);
    }

    /// <summary>Fetches everything in one piece, again from its beginning with every attempt.</summary>
    private async Task FetchWholeAsync(PartialFile part, CancellationToken ct)
    {
        for (int failures = 0; ;)
        {
            count.Add(-part.Done);
            part.Restart();
            try
            {
                using Stall stall = new(options.StallTimeout, ct);
                using HttpResponseMessage response = await client.GetAsync(file, null, stall);
                int range = 0;
                await ReadAsync(response, 0, file.Size, bytes =>
                {
                    while (!bytes.IsEmpty)
                    {
                        int room = (int)Math.Min(bytes.Length, part.End(range) - part.Next(range));
                        part.Append(range, bytes.Span[..room]);
                        bytes = bytes[room..];
                        if (part.Next(range) == part.End(range)) range++;
                    }
                }, stall);
                return;
            }
            catch (TransientException e)
            {
                await client.WaitAsync(++failures, e, count.Note, ct);
            }
        }
    }

    /// <summary>Reads a body that must have the bytes from <paramref name="from"/> to <paramref name="end"/>, and no
    /// more.</summary>
    private async Task ReadAsync(HttpResponseMessage response, long from, long end, Action<ReadOnlyMemory<byte>> append,
        Stall stall)
    {
        if (response.Content.Headers.ContentLength is { } length && length != end - from)
            throw Wrong($"{end - from} bytes were announced, {length} are sent");
        if (response.Content.Headers.ContentEncoding.Count > 0)
            throw Wrong($"it is sent as {string.Join(", ", response.Content.Headers.ContentEncoding)}, which was not "
                + "asked for");
        using Stream body = await response.Content.ReadAsStreamAsync(stall.Token);
        byte[] buffer = new byte[BufferBytes];
        for (long at = from; ;)
        {
            int read = await stall.WatchAsync(ct => body.ReadAsync(buffer, ct), file.Path);
            if (read == 0 && at == end) return;
            if (read == 0) throw new TransientException($"{file.Path} ended {end - at} bytes early");
            if (read > end - at) throw Wrong($"more than the {end - from} bytes announced were sent");
            append(buffer.AsMemory(0, read));
            count.Add(read);
            at += read;
        }
    }

    private HubException Wrong(string what) => new($"{file.Path} of {file.Repository}: {what}");
}
