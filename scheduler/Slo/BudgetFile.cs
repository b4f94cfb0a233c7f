using System.Buffers.Binary;
using System.Numerics;
using System.Text;

namespace Native.Scheduling.Slo;

/// <summary>Keeps a ledger's pairs in a file, so that a restart does not refill the budgets. One thread at a
/// time.</summary>
/// <remarks>
/// The file is a line that names it and frames: length, CRC-32C, payload. A payload is an objective's name and
/// definition, or pairs of 16 bytes each: objective, number of the pair, good, bad. <see cref="Save"/> appends what
/// changed; a pair that is saved twice counts as the last says. A process that is killed loses what came after the last
/// <see cref="Save"/>; a machine that loses power also what its system had not written yet. When the file has doubled
/// it is written anew beside itself and renamed. Reading stops at the first frame that is not whole.
/// </remarks>
public sealed class BudgetFile : IDisposable
{
    private const int FrameHeader = 8; // length and checksum
    private const int PairBytes = 16;
    private const int MaxPayload = 1 + (4096 * PairBytes);
    private const long LeastGrowth = 1 << 20; // a smaller file is not worth writing anew
    private const long MaxBytes = 1 << 30;
    private const byte ObjectiveKind = 1;
    private const byte PairsKind = 2;

    private static readonly byte[] FirstLine = "native slo state 1\n"u8.ToArray();

    private readonly string _path;
    private readonly BudgetLedger _ledger;
    private readonly byte[] _frame = new byte[FrameHeader + MaxPayload];
    private readonly (long Number, long Pair)[] _saved; // the newest pair saved of each objective
    private FileStream? _stream; // null where the next Save must write the file anew
    private long _writtenAnew; // bytes it had then
    private int _used;

    private static readonly string[] Devices = ["/dev/", "/proc/", "/sys/"];

    private BudgetFile(string path, BudgetLedger ledger)
    {
        _path = path;
        _ledger = ledger;
        _saved = new (long, long)[ledger.Budgets.Length];
    }

    /// <summary>Puts a file's pairs into a ledger that counts nothing yet, and writes the file anew.</summary>
    /// <param name="path">The file; it need not be there, its folder must.</param>
    /// <param name="ledger">What is kept.</param>
    /// <param name="warnings">A sentence for everything that could not be put back.</param>
    /// <exception cref="InvalidDataException">The file is something else, which is left as it is.</exception>
    /// <exception cref="IOException">It can't be read or written, its folder is missing, or another process has
    /// it.</exception>
    public static BudgetFile Open(string path, BudgetLedger ledger, ICollection<string> warnings)
    {
        string target = path;
        try
        {
            // A new file takes the old one's name: that must not be a link's, nor a device's.
            FileInfo info = new(path);
            if (info.LinkTarget is not null) target = info.ResolveLinkTarget(returnFinalTarget: true)!.FullName;
            string full = Path.GetFullPath(target);
            if (Devices.Any(full.StartsWith) && !full.StartsWith("/dev/shm/", StringComparison.Ordinal))
                throw new IOException("it is a device, not a file.");
            if (Directory.Exists(full)) throw new IOException("it is a folder, not a file.");
            if (Path.GetDirectoryName(full) is { } folder && !Directory.Exists(folder))
                throw new IOException($"the folder {folder} is missing.");
            BudgetFile file = new(target, ledger);
            byte[] bytes = ReadAll(target);
            if (bytes.Length > 0) file.Load(bytes, warnings);
            file.WriteAnew();
            return file;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new IOException($"the error budgets can't be kept in '{path}': {e.Message}", e);
        }
        catch (InvalidDataException e)
        {
            throw new InvalidDataException($"{path} {e.Message}", e);
        }
    }

    /// <summary>Writes what changed since the last call. After a failure the next call writes everything.</summary>
    /// <exception cref="IOException">The disk is full or gone.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be written any more.</exception>
    public void Save()
    {
        bool isGone = _stream is null || !File.Exists(_path); // what is appended to a deleted file is lost
        if (isGone || _stream!.Length > Math.Max(2 * _writtenAnew, LeastGrowth))
        {
            WriteAnew();
            return;
        }
        try
        {
            for (int i = 0; i < _saved.Length; i++) AppendPairs(_stream, i, _saved[i].Number);
            EndFrame(_stream);
        }
        catch
        {
            Dispose(); // half a frame may be at its end
            throw;
        }
    }

    /// <summary>Closes the file; what was not saved is lost.</summary>
    public void Dispose()
    {
        _stream?.Dispose();
        _stream = null;
    }

    private static byte[] ReadAll(string path)
    {
        if (!File.Exists(path)) return [];
        using FileStream stream = new(path, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
        if (!stream.CanSeek || stream.Length > MaxBytes) throw Foreign(); // a pipe, or far too much
        byte[] bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        return bytes;
    }

    private static InvalidDataException Foreign() =>
        new("is there and is no SLO state of this version; it is left as it is. Name another file.");

    private void Load(byte[] bytes, ICollection<string> warnings)
    {
        if (!bytes.AsSpan().StartsWith(FirstLine))
        {
            // A first write that was cut off has the line's beginning; anything else is somebody's file.
            if (!FirstLine.AsSpan().StartsWith(bytes)) throw Foreign();
            warnings.Add($"{_path} ends in its first line; the budgets begin anew");
            return;
        }
        List<(string Name, string Definition)> objectives = [];
        long newest = 0, end = ReadFrames(bytes, bytes.Length, objectives, (_, number, _) =>
        {
            newest = Math.Max(newest, number);
        });
        if (end < bytes.Length)
            warnings.Add($"{_path} is damaged after {end} bytes; what came later is lost");
        int[] places = [.. objectives.Select(objective => PlaceOf(objective, warnings))];
        long ahead = _ledger.Budgets.Length == 0 ? 0 : Math.Max(0, newest - _ledger.Budgets[0].Open);
        if (ahead > 0)
        {
            warnings.Add($"{_path} ends {ahead * BudgetWindows.PairSeconds} s after this machine's time; "
                + "its counts are moved back by that");
        }
        ReadFrames(bytes, end, [], (objective, number, pair) =>
        {
            if (places[objective] >= 0) _ledger.Budgets[places[objective]].Restore(number - ahead, pair);
        });
        foreach (ObjectiveBudget budget in _ledger.Budgets) budget.SumRestored();
    }

    /// <summary>The ledger's objective that an earlier one's counts belong to, or -1.</summary>
    private int PlaceOf((string Name, string Definition) earlier, ICollection<string> warnings)
    {
        for (int i = 0; i < _ledger.Budgets.Length; i++)
        {
            SloObjective objective = _ledger.Budgets[i].Objective;
            if (objective.Name != earlier.Name) continue;
            if (objective.Definition == earlier.Definition) return i;
            warnings.Add($"{_path}: the objective '{earlier.Name}' was another one; its budget begins anew");
            return -1;
        }
        warnings.Add($"{_path}: there is no objective '{earlier.Name}' any more; its counts are dropped");
        return -1;
    }

    /// <summary>Reads frames up to the first that is not whole.</summary>
    /// <returns>Where that begins.</returns>
    private static long ReadFrames(
        byte[] bytes, long length, List<(string Name, string Definition)> objectives, Action<int, long, long> each)
    {
        int known = 0;
        long at = FirstLine.Length;
        while (length - at >= FrameHeader)
        {
            ReadOnlySpan<byte> rest = bytes.AsSpan((int)at, (int)(length - at));
            uint size = BinaryPrimitives.ReadUInt32LittleEndian(rest);
            if (size is 0 or > MaxPayload || size > rest.Length - FrameHeader) break;
            ReadOnlySpan<byte> payload = rest.Slice(FrameHeader, (int)size);
            if (BinaryPrimitives.ReadUInt32LittleEndian(rest[4..]) != Checksum(payload)) break;
            if (!TryReadPayload(payload, ref known, objectives, each)) break;
            at += FrameHeader + size;
        }
        return at;
    }

    private static bool TryReadPayload(
        ReadOnlySpan<byte> payload, ref int known, List<(string Name, string Definition)> objectives,
        Action<int, long, long> each)
    {
        ReadOnlySpan<byte> rest = payload[1..];
        if (payload[0] == ObjectiveKind)
        {
            string[] text = Encoding.UTF8.GetString(rest).Split('\n');
            if (text.Length != 2) return false;
            objectives.Add((text[0], text[1]));
            known++;
            return true;
        }
        if (payload[0] != PairsKind || rest.Length % PairBytes != 0) return false;
        for (int i = 0; i < rest.Length; i += PairBytes)
            if (BinaryPrimitives.ReadUInt32LittleEndian(rest[i..]) >= known) return false;
        for (; !rest.IsEmpty; rest = rest[PairBytes..])
        {
            each((int)BinaryPrimitives.ReadUInt32LittleEndian(rest),
                BinaryPrimitives.ReadUInt32LittleEndian(rest[4..]), BinaryPrimitives.ReadInt64LittleEndian(rest[8..]));
        }
        return true;
    }

    /// <summary>Writes everything into a new file, and puts that in the old one's place.</summary>
    private void WriteAnew()
    {
        Dispose();
        string temporary = _path + ".new";
        using (FileStream stream = new(temporary, FileMode.Create, FileAccess.Write, FileShare.None, bufferSize: 0))
        {
            stream.Write(FirstLine);
            foreach (ObjectiveBudget budget in _ledger.Budgets)
            {
                _frame[FrameHeader] = ObjectiveKind;
                string text = $"{budget.Objective.Name}\n{budget.Objective.Definition}";
                _used = 1 + Encoding.UTF8.GetBytes(text, _frame.AsSpan(FrameHeader + 1));
                EndFrame(stream);
            }
            for (int i = 0; i < _saved.Length; i++) AppendPairs(stream, i, 0);
            EndFrame(stream);
            stream.Flush(flushToDisk: true); // whole before it takes the old one's name
            _writtenAnew = stream.Length;
        }
        File.Move(temporary, _path, overwrite: true);
        _stream = new FileStream(_path, FileMode.Append, FileAccess.Write, FileShare.None, bufferSize: 0);
    }

    /// <summary>Writes the pairs of an objective from a number on that have counts, and are not saved as they
    /// are.</summary>
    private void AppendPairs(FileStream stream, int objective, long from)
    {
        ObjectiveBudget budget = _ledger.Budgets[objective];
        long open = budget.Open;
        (long Number, long Pair) saved = from == 0 ? default : _saved[objective];
        for (long number = Math.Max(from, budget.Oldest); number <= open; number++)
        {
            long pair = budget.ReadPair(number);
            if (number == open) _saved[objective] = (open, pair);
            if (pair == 0 || (number == saved.Number && pair == saved.Pair)) continue;
            if (_used + PairBytes > MaxPayload) EndFrame(stream);
            if (_used == 0) _frame[FrameHeader + _used++] = PairsKind;
            Span<byte> entry = _frame.AsSpan(FrameHeader + _used);
            BinaryPrimitives.WriteUInt32LittleEndian(entry, (uint)objective);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], (uint)number);
            BinaryPrimitives.WriteInt64LittleEndian(entry[8..], pair);
            _used += PairBytes;
        }
    }

    /// <summary>Writes the frame that was filled, in one piece; nothing where it is empty.</summary>
    private void EndFrame(FileStream stream)
    {
        if (_used == 0) return;
        int used = _used;
        _used = 0;
        BinaryPrimitives.WriteInt32LittleEndian(_frame, used);
        BinaryPrimitives.WriteUInt32LittleEndian(_frame.AsSpan(4), Checksum(_frame.AsSpan(FrameHeader, used)));
        stream.Write(_frame.AsSpan(0, FrameHeader + used));
    }

    private static uint Checksum(ReadOnlySpan<byte> payload)
    {
        uint crc = ~0u;
        for (; payload.Length >= 8; payload = payload[8..])
            crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(payload));
        foreach (byte b in payload) crc = BitOperations.Crc32C(crc, b);
        return ~crc;
    }
}
